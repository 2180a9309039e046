#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use tokio::time::timeout;

use super::PodLocks;

#[tokio::test]
async fn a_turn_lasts_until_its_last_clone_is_gone() {
    let locks = PodLocks::default();
    let turn = locks.lock("a").await;
    let clone = turn.clone();
    drop(turn);
    let soon = Duration::from_millis(20);
    assert!(timeout(soon, locks.lock("a")).await.is_err());
    timeout(soon, locks.lock("b")).await.unwrap();
    drop(clone);
    timeout(soon, locks.lock("a")).await.unwrap();
}

#[tokio::test]
async fn locks_of_pods_that_are_gone_do_not_pile_up() {
    let locks = PodLocks::default();
    let _held = locks.lock("held").await;
    for pod in 0..10_000 {
        locks.lock(&pod.to_string()).await;
    }
    let locks = locks.0.lock().unwrap();
    assert!(locks.by_pod.len() < 200, "{}", locks.by_pod.len());
    assert!(locks.by_pod.contains_key("held"));
}
