//! Points at which tests have the server die: between any two steps that change what is on the disk.
//!
//! A debug build aborts at the point that `PINTLE_FAULT_POINT=<name>:abort` names; a release build has no such code. A
//! point that is added here has to be added to the test that dies at all of them, or that does not compile.

/// Declares the points, so that none can be missing from the list of all.
macro_rules! points {
    ($( $(#[doc = $doc:literal])+ $point:ident = $name:literal, )+) => {
        /// Where the server may die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FaultPoint {
            $( $(#[doc = $doc])+ $point, )+
        }

        impl FaultPoint {
            /// All of them.
            pub const ALL: &'static [Self] = &[$( Self::$point ),+];

            /// What it is called in the environment.
            pub fn name(self) -> &'static str {
                match self {
                    $( Self::$point => $name, )+
                }
            }
        }
    };
}

points! {
    /// A layer's directory was made, nothing is in it.
    UnpackBegun = "unpack-begun",
    /// A layer is unpacked.
    UnpackEnded = "unpack-ended",
    /// All layers of an image are unpacked, none is in its place.
    CommitBegun = "commit-begun",
    /// A layer's recipe is in its place, the layer is not.
    RecipePlaced = "recipe-placed",
    /// A layer is in its place, not synced.
    LayerPlaced = "layer-placed",
    /// All layers are synced.
    LayersSynced = "layers-synced",
    /// The image is about to be written to the database.
    CommitUnrecorded = "commit-unrecorded",
    /// The image is in the database.
    CommitRecorded = "commit-recorded",
    /// A further name of an image is in the database.
    NamesRecorded = "names-recorded",
    /// A removal has begun.
    RemovalBegun = "removal-begun",
    /// The image is out of the database.
    RemovalRecorded = "removal-recorded",
    /// Layers are out of the database, and in their places.
    LayersForgotten = "layers-forgotten",
    /// The recipe of a layer is among what is to be deleted, the layer is not.
    RecipeDiscarded = "recipe-discarded",
    /// A layer is among what is to be deleted.
    LayerDiscarded = "layer-discarded",
    /// A good layer stands by to take the place of a damaged one, not synced.
    RepairMoved = "repair-moved",
    /// The same, synced.
    RepairSynced = "repair-synced",
    /// The good layer has the place; the recipe is the old one's.
    RepairExchanged = "repair-exchanged",
    /// Layer and recipe are new, and not synced.
    RecipeExchanged = "recipe-exchanged",
    /// The same, synced; the database knows what the old one took.
    RepairUnrecorded = "repair-unrecorded",
}

/// The environment variable that names the point.
pub const VARIABLE: &str = "PINTLE_FAULT_POINT";

/// Marks a point. Does nothing but in a test that wants the process to die here.
#[inline]
pub fn reach(point: FaultPoint) {
    #[cfg(debug_assertions)]
    {
        static WANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        let wanted = WANTED.get_or_init(|| std::env::var(VARIABLE).ok());
        if wanted.as_deref().and_then(|it| it.strip_suffix(":abort")) == Some(point.name()) {
            std::process::abort();
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = point;
}
