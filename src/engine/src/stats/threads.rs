//! The same for each of many, on as many threads as it is worth.

use std::{num::NonZero, thread};

/// Fewer than these are not worth a thread of their own.
const LEAST: usize = 8;

/// Threads at most, however many cores there are: statistics are not what a node is for.
const MOST: usize = 4;

/// Does `work` for each of `items`, and returns what came of it in their order. Each thread has what `start` makes.
pub(super) fn each<T: Sync, S, R: Send>(
    items: &[T],
    start: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> R + Sync,
) -> Vec<R> {
    let all = |items: &[T]| {
        let mut own = start();
        items.iter().map(|item| work(&mut own, item)).collect()
    };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = cores.min(MOST).min(items.len() / LEAST).max(1);
    let mut parts = items.chunks(items.len().div_ceil(threads).max(1));
    // This thread would only wait.
    let first = parts.next().unwrap_or_default();
    thread::scope(|scope| {
        let others: Vec<_> = parts
            .map(|part| {
                let spawned = thread::Builder::new()
                    .name("statistics".to_owned())
                    .spawn_scoped(scope, || all(part));
                spawned.map_err(|_| part)
            })
            .collect();
        let mut found: Vec<R> = all(first);
        for other in others {
            match other {
                Ok(thread) => found.extend(
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                ),
                // Without threads it takes longer.
                Err(part) => found.extend(all(part)),
            }
        }
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_done_in_order_however_many_there_are() {
        for count in [0, 1, LEAST, 2 * LEAST, 10 * LEAST + 3] {
            let items: Vec<usize> = (0..count).collect();
            let found = each(
                &items,
                || 0_usize,
                |done, item| {
                    *done += 1;
                    (*item, *done)
                },
            );
            let order: Vec<usize> = found.iter().map(|(item, _)| *item).collect();
            assert_eq!(order, items);
            // Each thread counts its own.
            assert!(found.first().is_none_or(|(_, done)| *done == 1));
        }
    }
}
