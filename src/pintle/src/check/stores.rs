//! Additional stores: whether images can be used from them.

use std::{path::PathBuf, time::Duration};

use image::AdditionalStore;

use super::finding::Finding;
use crate::{config::Config, exit::in_full};

/// The name of this part.
const AREA: &str = "stores";
/// How long a store's file system may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// All of it; nothing if there are none.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for root in &config.image.additional_stores {
        findings.push(look_at(root.clone()).await);
    }
    findings
}

async fn look_at(root: PathBuf) -> Finding {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let path = root.clone();
    // A thread that nobody waits for: it may never end.
    let started = std::thread::Builder::new().spawn(move || {
        let _ = answer.send(AdditionalStore::look_at(&path));
    });
    let looked = match started {
        Ok(_) => tokio::time::timeout(PATIENCE, answered).await,
        Err(error) => {
            return Finding::warn(AREA, format!("cannot start a thread: {error}"), "try again");
        }
    };
    match looked {
        Ok(Ok(store)) => judge(&store),
        _ => Finding::warn(
            AREA,
            format!("the file system of {} does not answer", root.display()),
            "mend its server, or unmount it; the rest of the node does not wait for it",
        ),
    }
}

fn judge(store: &AdditionalStore) -> Finding {
    let root = store.root.display();
    if let Some(problem) = &store.problem {
        return Finding::warn(
            AREA,
            in_full(&**problem),
            format!(
                "mount or mend {root}, or take it out of `image.additional_stores`; docs/image-store.md tells how one is made"
            ),
        );
    }
    let found = format!("{root}: {} images, {} layers", store.images, store.layers);
    if store.unusable_images == 0 {
        return Finding::ok(AREA, found);
    }
    Finding::warn(
        AREA,
        format!(
            "{found}; {} more have layers that are not there, or records that cannot be read",
            store.unusable_images
        ),
        "make the store anew; if it was made beside others, list those, too",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use image::AdditionalStoreError;
    use rstest::rstest;

    use super::*;
    use crate::check::finding::Level;

    #[rstest]
    #[case(0, false, Level::Ok, "/s: 3 images, 5 layers")]
    #[case(2, false, Level::Warn, "2 more")]
    #[case(0, true, Level::Warn, "no image store at /s")]
    fn judges(
        #[case] unusable_images: usize,
        #[case] is_absent: bool,
        #[case] level: Level,
        #[case] words: &str,
    ) {
        let absent = AdditionalStoreError::Absent { store: "/s".into() };
        let finding = judge(&AdditionalStore {
            root: "/s".into(),
            images: 3,
            unusable_images,
            layers: 5,
            problem: is_absent.then(|| Arc::new(absent)),
        });
        assert_eq!(finding.level, level);
        assert!(finding.found.contains(words), "{finding:?}");
    }
}
