//! Who needs which layer.
//!
//! Every image record, every lease and every pull under way pins the layers it counts on. A layer leaves the disk only
//! when nothing pins it, and it leaves this table first, under the lock, so that whoever pins it afterwards knows that
//! it has to be fetched anew. The table, not the file system, is what says that a layer is there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use state::{ChainId, LayerRow};
use tokio::sync::Notify;

/// The layers on disk or being fetched. Clones share one table.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerTable {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<HashMap<ChainId, Entry>>,
    /// Told when a layer on disk lost its last pin.
    unused: Notify,
}

/// Exists while the layer is on disk or pinned.
#[derive(Debug, Default)]
struct Entry {
    /// `Some` when the layer is on disk.
    row: Option<LayerRow>,
    pins: usize,
}

/// Keeps layers where they are, and keeps the claim to those that are still to come. Dropping it lets go.
#[derive(Debug)]
pub(crate) struct Pins {
    table: LayerTable,
    chains: Vec<ChainId>,
}

impl LayerTable {
    /// A table of layers that are on disk, none of them pinned.
    pub(crate) fn new(rows: Vec<LayerRow>) -> Self {
        let table = Self::default();
        table.put_back(rows);
        table
    }

    /// Pins layers, on disk or not.
    pub(crate) fn pin(&self, chains: &[ChainId]) -> Pins {
        let mut entries = self.entries();
        for chain in chains {
            entries.entry(chain.clone()).or_default().pins += 1;
        }
        Pins {
            table: self.clone(),
            chains: chains.to_vec(),
        }
    }

    /// Pins layers if all of them are on disk.
    pub(crate) fn pin_present(&self, chains: &[ChainId]) -> Option<Pins> {
        let pins = self.pin(chains);
        pins.chains
            .iter()
            .all(|chain| self.is_present(chain))
            .then_some(pins)
    }

    /// Whether a layer is on disk. Stays true as long as the caller pins it.
    pub(crate) fn is_present(&self, chain: &ChainId) -> bool {
        self.entries()
            .get(chain)
            .is_some_and(|entry| entry.row.is_some())
    }

    /// Disk space of a layer; 0 if it is not on disk.
    pub(crate) fn size_bytes(&self, chain: &ChainId) -> u64 {
        self.entries()
            .get(chain)
            .and_then(|entry| entry.row.as_ref())
            .map_or(0, |row| row.size_bytes)
    }

    /// Takes note of layers that are on disk now.
    pub(crate) fn put_back(&self, rows: impl IntoIterator<Item = LayerRow>) {
        let mut entries = self.entries();
        for row in rows {
            let entry = entries.entry(row.chain.clone()).or_default();
            entry.row = Some(row);
        }
    }

    /// Takes all layers out that nothing pins. The caller removes them from the disk or puts them back.
    pub(crate) fn take_unused(&self) -> Vec<LayerRow> {
        let mut rows = Vec::new();
        self.entries().retain(|_, entry| {
            if entry.pins > 0 {
                return true;
            }
            rows.extend(entry.row.take());
            false
        });
        rows
    }

    /// Waits until some layer lost its last pin.
    pub(crate) async fn unused(&self) {
        self.shared.unused.notified().await;
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<ChainId, Entry>> {
        self.shared
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pins {
    /// The pinned layers, as they were given.
    pub(crate) fn chains(&self) -> &[ChainId] {
        &self.chains
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut entries = self.table.entries();
        let mut unused = false;
        for chain in &self.chains {
            if let Some(entry) = entries.get_mut(chain) {
                entry.pins = entry.pins.saturating_sub(1);
                if entry.pins == 0 {
                    if entry.row.is_some() {
                        unused = true;
                    } else {
                        entries.remove(chain);
                    }
                }
            }
        }
        drop(entries);
        if unused {
            self.table.shared.unused.notify_one();
        }
    }
}

/// Keeps the layers of an image on disk, whatever becomes of the image. Dropping it lets go of them.
#[derive(Debug)]
pub struct ImageLease {
    pins: Pins,
}

impl ImageLease {
    pub(crate) fn new(pins: Pins) -> Self {
        Self { pins }
    }

    /// The layers, lowest first. Worth recording: after a restart [`crate::Images::lease_layers`] takes them.
    pub fn layers(&self) -> &[ChainId] {
        self.pins.chains()
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use proptest::prelude::*;
    use state::{DiffId, Digest};

    use super::*;

    fn row(seed: &str) -> LayerRow {
        let diff = DiffId::from(Digest::sha256_of(seed.as_bytes()));
        LayerRow {
            chain: ChainId::child(None, &diff),
            diff,
            parent: None,
            size_bytes: 10,
            inodes: 1,
        }
    }

    #[test]
    fn only_unpinned_layers_are_taken() {
        let (a, b) = (row("a"), row("b"));
        let table = LayerTable::new(vec![a.clone(), b.clone()]);
        let image = table.pin(std::slice::from_ref(&a.chain));
        let lease = table
            .pin_present(&[a.chain.clone(), b.chain.clone()])
            .unwrap();
        assert!(table.take_unused().is_empty());
        drop(lease);
        assert_eq!(table.take_unused(), vec![b.clone()]);
        assert!(!table.is_present(&b.chain));
        assert!(table.pin_present(&[a.chain.clone(), b.chain]).is_none());
        drop(image);
        assert_eq!(table.take_unused(), vec![a]);
    }

    #[test]
    fn a_layer_pinned_before_it_comes_stays_when_it_comes() {
        let a = row("a");
        let table = LayerTable::default();
        let pull = table.pin(std::slice::from_ref(&a.chain));
        assert!(!table.is_present(&a.chain));
        table.put_back([a.clone()]);
        assert!(table.take_unused().is_empty());
        drop(pull);
        assert_eq!(table.take_unused(), vec![a]);
    }

    #[test]
    fn an_abandoned_claim_leaves_no_entry() {
        let table = LayerTable::default();
        drop(table.pin(&[row("a").chain]));
        assert!(table.entries().is_empty());
    }

    #[tokio::test]
    async fn losing_the_last_pin_is_told() {
        let a = row("a");
        let table = LayerTable::new(vec![a.clone()]);
        drop(table.pin(&[a.chain]));
        table.unused().await;
    }

    /// What may happen to one of three layers.
    #[derive(Clone, Debug)]
    enum Event {
        Pin(Vec<usize>),
        Unpin(usize),
        Arrive(usize),
        Reap,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            prop::collection::vec(0..3_usize, 1..3).prop_map(Event::Pin),
            (0..5_usize).prop_map(Event::Unpin),
            (0..3_usize).prop_map(Event::Arrive),
            Just(Event::Reap),
        ];
        prop::collection::vec(event, 0..60)
    }

    proptest! {
        /// Against a model that counts naively: exactly the unpinned layers on disk are taken, and none is lost.
        #[test]
        fn agrees_with_a_naive_count(events in events()) {
            let rows = [row("a"), row("b"), row("c")];
            let table = LayerTable::default();
            let mut held: Vec<(Vec<usize>, Pins)> = Vec::new();
            let mut on_disk = [false; 3];
            for event in events {
                match event {
                    Event::Pin(which) => {
                        let chains: Vec<ChainId> =
                            which.iter().map(|&n| rows[n].chain.clone()).collect();
                        held.push((which, table.pin(&chains)));
                    }
                    Event::Unpin(n) if n < held.len() => drop(held.remove(n)),
                    // Only pulls bring layers, and they pin them.
                    Event::Arrive(n) if held.iter().any(|(which, _)| which.contains(&n)) => {
                        table.put_back([rows[n].clone()]);
                        on_disk[n] = true;
                    }
                    Event::Unpin(_) | Event::Arrive(_) => {}
                    Event::Reap => {
                        let mut taken: Vec<ChainId> =
                            table.take_unused().into_iter().map(|row| row.chain).collect();
                        taken.sort();
                        let mut expected = Vec::new();
                        for n in 0..3 {
                            if on_disk[n] && !held.iter().any(|(which, _)| which.contains(&n)) {
                                on_disk[n] = false;
                                expected.push(rows[n].chain.clone());
                            }
                        }
                        expected.sort();
                        prop_assert_eq!(taken, expected);
                    }
                }
                for n in 0..3 {
                    prop_assert_eq!(table.is_present(&rows[n].chain), on_disk[n]);
                }
            }
        }
    }
}
