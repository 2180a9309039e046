//! Whether a pod may use an image that is here.
//!
//! The image may have come for another namespace, under another policy, or before there was one; a pod that pulls only what
//! is missing would run it all the same. So containers are made of what the policy of their own namespace lets them use.
//! What an image showed before is in its record; only what is asked for the first time is looked for at the registry.

use std::sync::Arc;

use state::Digest;

use crate::error::ImageError;
use crate::image::Image;
use crate::reference::Reference;
use crate::trust;

use super::Images;

impl Images {
    /// Whether a pod of `namespace` may use this image by the name that its user wrote. Without a name, or with an id for one,
    /// a single name of the image that may be used is enough.
    ///
    /// # Errors
    /// The policy refuses the image, or the place where its signatures are does not answer.
    pub async fn permit(
        &self,
        image: &Arc<Image>,
        name: &str,
        namespace: Option<&str>,
    ) -> Result<(), ImageError> {
        let mut refused = None;
        for reference in self.names_to_permit(image, name) {
            match self.permit_as(image, &reference, namespace).await {
                Ok(()) => return Ok(()),
                Err(error) => refused = Some(error),
            }
        }
        // Only an archive that the operator imports can be without any name.
        refused.map_or(Ok(()), Err)
    }

    /// The names by which an image may be used, if that is the name that somebody gave it.
    fn names_to_permit(&self, image: &Image, name: &str) -> Vec<Reference> {
        let known = self.inner.registry.known_names(name);
        let catalogue = self.inner.catalogue.load();
        let is_name = known
            .iter()
            .any(|name| catalogue.by_reference(&name.identity()).is_some());
        let is_id = !is_name && catalogue.find(name, &[]).is_some();
        if known.is_empty() || is_id {
            let names = image.names();
            return names
                .filter_map(|name| Reference::parse(name).ok())
                .collect();
        }
        known
    }

    async fn permit_as(
        &self,
        image: &Arc<Image>,
        reference: &Reference,
        namespace: Option<&str>,
    ) -> Result<(), ImageError> {
        let inner = &self.inner;
        let policy = trust::own_policy(&inner.config, namespace).await?;
        let demands = trust::demands(&inner.config, reference, policy).await?;
        let Some(seal) = demands.seal() else {
            return Ok(());
        };
        if image.seals.contains(seal) {
            return Ok(());
        }
        tracing::info!(%reference, namespace, "looking for the signatures of an image that is here");
        let keyring = inner
            .keyring(reference, namespace.map(str::to_owned))
            .await?;
        let session = inner.session(reference, keyring).await?;
        let digests = digests_of(image, reference);
        demands.check(&inner.config, &session, &digests).await?;
        inner
            .add_names(&image.id, Vec::new(), Some(seal.clone()))
            .await?;
        inner.trim_memory();
        Ok(())
    }
}

/// The digests under which an image may be signed in the repository of a reference: its manifest's, and those of the indexes
/// that led to it there.
fn digests_of(image: &Image, reference: &Reference) -> Vec<Digest> {
    let names = image
        .repo_digests
        .iter()
        .filter_map(|name| Reference::parse(name).ok());
    let there = names.filter(|name| name.name() == reference.name());
    let indexes = there.filter_map(|name| name.digest().cloned());
    indexes.chain(image.manifest_digest.clone()).collect()
}
