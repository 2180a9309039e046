//! Images as files: archives in, archives out. How images reach nodes without a registry.
//!
//! Read are OCI image layouts in a tar (`skopeo copy … oci-archive:`, `ctr image export`, `docker save` of today) and
//! docker archives (`docker save` of old, `skopeo copy … docker-archive:`), plain or compressed, with one image or many.
//! Which of the two is seen from the content. Written are both; the docker form holds the OCI layout as well.
//!
//! **What an export is.** Compressed layers are not kept, so an export is made from the unpacked ones: their tars are
//! written anew, uncompressed, bit for bit as they once were, with the help of a recipe that the store keeps of each.
//! An exported image therefore has the id that it has here. The exception are layers whose entries replace each other,
//! for which the store has no recipe: their tar holds the same files with another digest, the exported configuration
//! names that digest, and the image that is imported from it has another id. Manifest digests are always new, since the
//! original manifest named compressed layers.

mod export;
mod import;
mod layout;
mod spool;
mod tape;

use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::artifact::ImageKind;
use crate::error::ImageError;
use crate::image::Image;
use crate::reference::Reference;
use crate::store::Images;

use spool::Source;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use spool::nameless;

/// The two kinds of archive that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    Oci,
    /// What `docker load` reads: an OCI image layout with docker's own `manifest.json` beside it.
    Docker,
}

impl Images {
    /// Imports the images of an archive that arrives as a stream. `names` replace those of the archive; with `names`,
    /// the archive may hold only one image.
    pub async fn import(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        names: &[String],
    ) -> Result<Vec<Arc<Image>>, ImageError> {
        let names = parse_names(names)?;
        let source = Source::Stream(Box::new(archive));
        import::run(&self.inner, source, names).await
    }

    /// Imports the images of an archive that is a file of this node, which is read in place if it is not compressed.
    pub async fn import_file(
        &self,
        path: &Path,
        names: &[String],
    ) -> Result<Vec<Arc<Image>>, ImageError> {
        let names = parse_names(names)?;
        import::run(&self.inner, Source::File(path.to_owned()), names).await
    }

    /// Writes an image as an archive. Its names go along: those by tag, and only `name` itself if that is a tag.
    pub async fn export(
        &self,
        name: &str,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        format: ArchiveFormat,
    ) -> Result<(), ImageError> {
        let absent = || ImageError::NoSuchImage {
            name: name.to_owned(),
        };
        let image = self.get(name).ok_or_else(absent)?;
        if image.kind == ImageKind::Artifact {
            return Err(ImageError::unsupported(
                format!("the export of {name}"),
                "it is an OCI artifact; copy it from its registry with oras or skopeo",
            ));
        }
        let lease = self.lease(&image.id).ok_or_else(absent)?;
        let asked_for = self
            .inner
            .registry
            .known_names(name)
            .iter()
            .map(Reference::identity)
            .find(|identity| image.repo_tags.contains(identity));
        let tags = match asked_for {
            Some(tag) => vec![tag],
            None => image.repo_tags.clone(),
        };
        let document = self.document(&image).await?;
        let source = export::Source {
            image,
            document,
            _lease: lease,
        };
        export::run(&self.inner, source, tags, writer, format).await
    }
}

/// How many images an archive holds, by what its documents say.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn contents(
    file: std::fs::File,
    platform: &crate::config::Platform,
    limits: &crate::config::ImageLimits,
) -> Result<usize, ImageError> {
    let tape = tape::Tape::read(file)?;
    Ok(layout::read(&tape, platform, limits)?.len())
}

fn parse_names(names: &[String]) -> Result<Vec<Reference>, ImageError> {
    let mut references = Vec::with_capacity(names.len());
    for name in names {
        let reference = Reference::parse(name)?;
        if reference.digest().is_some() {
            return Err(ImageError::unsupported(
                format!("the name {reference}"),
                "an import gives tags; digests follow from the content",
            ));
        }
        references.push(reference);
    }
    Ok(references)
}
