//! Who needs which layer.
//!
//! Every image record, every lease and every pull under way pins the layers it counts on. A layer leaves the disk only
//! when nothing pins it, and it leaves this table first, under the lock, so that whoever pins it afterwards knows that
//! it has to be fetched anew. The table, not the file system, is what says that a layer is there.
//!
//! Layers of additional stores are there for everybody, too, but nothing here keeps them: their store may go at any moment.
//!
//! A repair puts another directory in a damaged layer's place. Containers that run go on with the directory that they
//! have mounted, so that one is *retired*: it stays until every lease is dropped that was taken before. For that, layers
//! have generations, and leases remember which one they saw.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use state::{ChainId, ImageId, LayerRow};
use storage::ForeignLayers;
use tokio::sync::Notify;

/// The layers on disk or being fetched. Clones share one table.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerTable {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when a layer on disk lost its last pin, or a retired directory its last lease.
    unused: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<ChainId, Entry>,
    /// Layers that are in additional stores, whether we have them or not.
    foreign: Arc<ForeignLayers>,
    /// How many leases were taken for containers of these images.
    users: BTreeMap<ImageId, usize>,
    retired: Vec<Retired>,
}

/// Exists while the layer is on disk or pinned.
#[derive(Debug, Default)]
struct Entry {
    /// `Some` when the layer is on disk.
    row: Option<LayerRow>,
    pins: usize,
    /// How often the directory was replaced.
    generation: u64,
    /// How many leases saw which generation.
    leases: BTreeMap<u64, usize>,
}

/// A directory that was a layer's.
#[derive(Debug)]
struct Retired {
    chain: ChainId,
    /// The last generation that had it.
    generation: u64,
    directory: PathBuf,
}

/// Keeps layers where they are, and keeps the claim to those that are still to come. Dropping it lets go.
#[derive(Debug)]
pub(crate) struct Pins {
    table: LayerTable,
    chains: Vec<ChainId>,
}

/// What layers take on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageDisk {
    /// Bytes of all of its layers, those that it shares with others included.
    pub used_bytes: u64,
    /// Bytes that are free once the image is removed: those of layers that nothing else needs, no other image, no
    /// container and no pull.
    pub reclaimable_bytes: u64,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    /// What is known of it.
    pub row: LayerRow,
    /// Whether something needs it beside the image: another image, a container, a pull.
    pub is_shared: bool,
    /// The additional store that it is used from; `None`: it is in our own.
    pub store: Option<Arc<Path>>,
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
        let mut state = self.state();
        for chain in chains {
            state.entries.entry(chain.clone()).or_default().pins += 1;
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

    /// From now on, these layers are there, too, and no others of additional stores.
    pub(crate) fn set_foreign(&self, layers: Arc<ForeignLayers>) {
        self.state().foreign = layers;
    }

    /// Leases layers of containers of a former run, also those that are away.
    pub(crate) fn lease_anyway(&self, chains: &[ChainId]) -> ImageLease {
        self.lease_pinned(self.pin(chains), Vec::new())
    }

    /// Leases layers, for containers of these images, if all of them are on disk.
    pub(crate) fn lease(&self, chains: &[ChainId], users: Vec<ImageId>) -> Option<ImageLease> {
        Some(self.lease_pinned(self.pin_present(chains)?, users))
    }

    fn lease_pinned(&self, pins: Pins, users: Vec<ImageId>) -> ImageLease {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut generations = Vec::with_capacity(pins.chains.len());
        for chain in &pins.chains {
            let entry = state.entries.entry(chain.clone()).or_default();
            *entry.leases.entry(entry.generation).or_default() += 1;
            generations.push(entry.generation);
        }
        for user in &users {
            *state.users.entry(user.clone()).or_default() += 1;
        }
        drop(guard);
        ImageLease {
            pins,
            generations,
            users,
        }
    }

    /// Whether some lease was taken for a container of this image.
    pub(crate) fn is_leased_for(&self, image: &ImageId) -> bool {
        self.state().users.contains_key(image)
    }

    /// Whether a layer is on disk. Stays true as long as the caller pins it, unless it is an additional store's.
    pub(crate) fn is_present(&self, chain: &ChainId) -> bool {
        self.state().row(chain).is_some()
    }

    /// Whether a layer is on disk in our own store.
    pub(crate) fn is_own(&self, chain: &ChainId) -> bool {
        self.state().own_row(chain).is_some()
    }

    /// Disk space of a layer; 0 if it is not on disk.
    pub(crate) fn size_bytes(&self, chain: &ChainId) -> u64 {
        self.state().row(chain).map_or(0, |row| row.size_bytes)
    }

    /// What an image of these layers takes, and what its removal gives back. The image itself pins them once.
    pub(crate) fn disk(&self, chains: &[ChainId]) -> ImageDisk {
        let state = self.state();
        let mut disk = ImageDisk::default();
        for chain in chains {
            disk.used_bytes += state.row(chain).map_or(0, |row| row.size_bytes);
            if !state.is_shared(chain) {
                disk.reclaimable_bytes += state.own_bytes(chain);
            }
        }
        disk
    }

    /// The layers of an image that are on disk.
    pub(crate) fn layers(&self, chains: &[ChainId]) -> Vec<ImageLayer> {
        let state = self.state();
        chains
            .iter()
            .filter_map(|chain| {
                Some(ImageLayer {
                    row: state.row(chain)?.clone(),
                    is_shared: state.is_shared(chain),
                    store: match state.own_row(chain) {
                        Some(_) => None,
                        None => state.foreign.get(chain).map(|it| Arc::clone(it.store)),
                    },
                })
            })
            .collect()
    }

    /// What is given back when images of these layers are removed one after the other, by the image.
    pub(crate) fn freed_by<'a>(&self, images: impl Iterator<Item = &'a [ChainId]>) -> Vec<u64> {
        let state = self.state();
        let mut gone: HashMap<&ChainId, usize> = HashMap::new();
        images
            .map(|chains| {
                let mut freed = 0;
                for chain in chains {
                    let gone = gone.entry(chain).or_default();
                    *gone += 1;
                    let pins = state.entries.get(chain).map_or(0, |entry| entry.pins);
                    if *gone == pins {
                        freed += state.own_bytes(chain);
                    }
                }
                freed
            })
            .collect()
    }

    /// All layers on disk, each after those below it.
    pub(crate) fn all(&self) -> Vec<LayerRow> {
        let state = self.state();
        let own = state
            .entries
            .values()
            .filter_map(|entry| entry.row.as_ref());
        // The later one of two stays: our own.
        let rows: BTreeMap<ChainId, LayerRow> = state
            .foreign
            .rows()
            .chain(own)
            .map(|row| (row.chain.clone(), row.clone()))
            .collect();
        drop(state);
        let mut ordered = Vec::with_capacity(rows.len());
        let mut done = BTreeSet::new();
        for row in rows.values() {
            // From this one down to what is done, and then in the other direction.
            let mut way = Vec::new();
            let mut next = Some(row);
            while let Some(row) = next
                && done.insert(&row.chain)
            {
                way.push(row);
                next = row.parent.as_ref().and_then(|parent| rows.get(parent));
            }
            ordered.extend(way.into_iter().rev().cloned());
        }
        ordered
    }

    /// Takes note of layers that are on disk now.
    pub(crate) fn put_back(&self, rows: impl IntoIterator<Item = LayerRow>) {
        let mut state = self.state();
        for row in rows {
            let entry = state.entries.entry(row.chain.clone()).or_default();
            entry.row = Some(row);
        }
    }

    /// Takes all layers out that nothing pins. The caller removes them from the disk or puts them back.
    pub(crate) fn take_unused(&self) -> Vec<LayerRow> {
        let mut rows = Vec::new();
        self.state().entries.retain(|_, entry| {
            if entry.pins > 0 {
                return true;
            }
            rows.extend(entry.row.take());
            false
        });
        rows
    }

    /// Notes that this directory was a layer's, and that leases taken from now on do not need it.
    pub(crate) fn retire(&self, chain: &ChainId, directory: PathBuf) {
        let mut state = self.state();
        let entry = state.entries.entry(chain.clone()).or_default();
        let generation = entry.generation;
        entry.generation += 1;
        state.retired.push(Retired {
            chain: chain.clone(),
            generation,
            directory,
        });
        drop(state);
        self.shared.unused.notify_one();
    }

    /// Takes the retired directories out that no lease needs. The caller removes them from the disk.
    pub(crate) fn take_unleased(&self) -> Vec<PathBuf> {
        let mut guard = self.state();
        let state = &mut *guard;
        let entries = &state.entries;
        state
            .retired
            .extract_if(.., |retired| {
                entries
                    .get(&retired.chain)
                    .is_none_or(|entry| entry.leases.range(..=retired.generation).next().is_none())
            })
            .map(|retired| retired.directory)
            .collect()
    }

    /// Waits until some layer lost its last pin, or a lease was dropped that may have been a retired directory's last.
    pub(crate) async fn unused(&self) {
        self.shared.unused.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn own_row(&self, chain: &ChainId) -> Option<&LayerRow> {
        self.entries.get(chain)?.row.as_ref()
    }

    /// What is known of a layer, by our own store before others.
    fn row(&self, chain: &ChainId) -> Option<&LayerRow> {
        let foreign = || self.foreign.get(chain).map(|layer| layer.row);
        self.own_row(chain).or_else(foreign)
    }

    fn own_bytes(&self, chain: &ChainId) -> u64 {
        self.own_row(chain).map_or(0, |row| row.size_bytes)
    }

    fn is_shared(&self, chain: &ChainId) -> bool {
        self.entries.get(chain).is_some_and(|entry| entry.pins > 1)
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
        let mut state = self.table.state();
        let mut unused = false;
        for chain in &self.chains {
            if let Some(entry) = state.entries.get_mut(chain) {
                entry.pins = entry.pins.saturating_sub(1);
                if entry.pins == 0 {
                    if entry.row.is_some() {
                        unused = true;
                    } else {
                        state.entries.remove(chain);
                    }
                }
            }
        }
        drop(state);
        if unused {
            self.table.shared.unused.notify_one();
        }
    }
}

/// Keeps the layers of an image on disk, whatever becomes of the image. Dropping it lets go of them.
#[derive(Debug)]
pub struct ImageLease {
    pins: Pins,
    /// Which generation of each layer there was when it was taken.
    generations: Vec<u64>,
    users: Vec<ImageId>,
}

impl ImageLease {
    /// The layers, lowest first. Worth recording: after a restart [`crate::Images::lease_layers`] takes them.
    pub fn layers(&self) -> &[ChainId] {
        self.pins.chains()
    }

    /// Whether all of them are there. Those of additional stores may be away.
    pub fn is_whole(&self) -> bool {
        let mut layers = self.pins.chains.iter();
        layers.all(|chain| self.pins.table.is_present(chain))
    }
}

impl Drop for ImageLease {
    fn drop(&mut self) {
        let mut guard = self.pins.table.state();
        let state = &mut *guard;
        for (chain, generation) in self.pins.chains.iter().zip(&self.generations) {
            if let Some(entry) = state.entries.get_mut(chain) {
                count_down(&mut entry.leases, generation);
            }
        }
        for user in &self.users {
            count_down(&mut state.users, user);
        }
        let may_free = !state.retired.is_empty();
        drop(guard);
        if may_free {
            self.pins.table.shared.unused.notify_one();
        }
    }
}

fn count_down<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
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
        assert!(table.state().entries.is_empty());
    }

    #[tokio::test]
    async fn losing_the_last_pin_is_told() {
        let a = row("a");
        let table = LayerTable::new(vec![a.clone()]);
        drop(table.pin(&[a.chain]));
        table.unused().await;
    }

    #[test]
    fn a_retired_directory_stays_for_the_leases_before_it() {
        let (a, b) = (row("a"), row("b"));
        let table = LayerTable::new(vec![a.clone(), b.clone()]);
        let image = table.pin(&[a.chain.clone(), b.chain.clone()]);
        let both = [a.chain.clone(), b.chain.clone()];
        let old = table.lease(&both, Vec::new()).unwrap();
        table.retire(&a.chain, "first".into());
        assert!(table.take_unleased().is_empty());
        let newer = table.lease(&both, Vec::new()).unwrap();
        table.retire(&a.chain, "second".into());
        let newest = table.lease(&both, Vec::new()).unwrap();
        drop(newer);
        // The second one is in the eyes of `old`, too: it may have been mounted late.
        assert!(table.take_unleased().is_empty());
        drop(old);
        let mut free = table.take_unleased();
        free.sort();
        assert_eq!(free, [PathBuf::from("first"), PathBuf::from("second")]);
        table.retire(&b.chain, "third".into());
        drop(newest);
        assert_eq!(table.take_unleased(), [PathBuf::from("third")]);
        assert!(table.take_unused().is_empty());
        drop(image);
        assert_eq!(table.take_unused().len(), 2);
    }

    #[test]
    fn what_a_removal_gives_back() {
        let (a, b, c) = (row("a"), row("b"), row("c"));
        let table = LayerTable::new(vec![a.clone(), b.clone(), c.clone()]);
        let chains = |rows: &[&LayerRow]| -> Vec<ChainId> {
            rows.iter().map(|row| row.chain.clone()).collect()
        };
        let (one, two) = (chains(&[&a, &b]), chains(&[&a, &c]));
        let _pins = (table.pin(&one), table.pin(&two));
        let disk = |used_bytes, reclaimable_bytes| ImageDisk {
            used_bytes,
            reclaimable_bytes,
        };
        assert_eq!(table.disk(&one), disk(20, 10));
        let freed =
            |table: &LayerTable| table.freed_by([one.as_slice(), two.as_slice()].into_iter());
        assert_eq!(freed(&table), [10, 20]);
        let image = ImageId::from(Digest::sha256_of(b"image"));
        let lease = table.lease(&chains(&[&c]), vec![image.clone()]).unwrap();
        assert_eq!(table.disk(&two), disk(20, 0));
        assert_eq!(freed(&table), [10, 10]);
        assert!(table.is_leased_for(&image));
        drop(lease);
        assert!(!table.is_leased_for(&image));
        let shared: Vec<bool> = table.layers(&two).iter().map(|it| it.is_shared).collect();
        assert_eq!(shared, [true, false]);
    }

    #[test]
    fn layers_come_after_those_below_them() {
        let mut rows = Vec::new();
        for number in 0..20 {
            let mut row = row(&number.to_string());
            row.parent = rows.last().map(|below: &LayerRow| below.chain.clone());
            rows.push(row);
        }
        let table = LayerTable::new(rows.clone());
        assert_eq!(table.all(), rows);
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
