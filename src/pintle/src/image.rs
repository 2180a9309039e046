//! `pintle image`: pulls, archives in and out, the list, how an image would be pulled, and the care of the store, through a running
//! server; and without one, stores for others to use.

mod credentials;
mod explain;
mod list;
mod make_store;
pub(crate) mod progress;
mod pull;
mod store;

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
};

use api::admin::{
    ArchiveFormat, ExplainImageRequest, ExplainImageResponse, ExportImageRequest,
    ImportImageRequest, admin_client::AdminClient,
};
use bytes::{Bytes, BytesMut};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    args::{Connected, Format, ImageCommand},
    client::{self, Asked, ClientError},
    config::{self, Sources},
    exit::{Exit, Failure, OrExit},
};

/// Size of a piece of an archive on its way: well below the largest message.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces read ahead of the server.
const PIECES_AHEAD: usize = 2;

/// Why an archive cannot be carried.
#[derive(Debug, thiserror::Error)]
enum ArchiveError {
    /// The server said no, or is not there.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Write {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Carries the command out.
pub(crate) async fn run(config_file: Option<&Path>, command: &ImageCommand) -> Result<(), Failure> {
    match command {
        ImageCommand::Import {
            connected,
            file,
            name,
        } => {
            let channel = channel(config_file, connected).await?;
            import(channel, file, name).await.or_exit(Exit::Unavailable)
        }
        ImageCommand::Export {
            connected,
            image,
            file,
            format,
        } => {
            let channel = channel(config_file, connected).await?;
            export(channel, image, file, *format)
                .await
                .or_exit(Exit::Unavailable)
        }
        ImageCommand::Explain {
            connected,
            image,
            namespace,
            output,
        } => {
            let channel = channel(config_file, connected).await?;
            let explained = explained(channel, image, namespace)
                .await
                .or_exit(Exit::Unavailable)?;
            if output.json {
                println!("{}", explain::json(&explained));
            } else {
                print!("{}", explain::text(&explained));
            }
            Ok(())
        }
        ImageCommand::Pull {
            connected,
            image,
            creds_file,
            quiet,
            json,
        } => {
            let auth = match creds_file {
                Some(file) => Some(credentials::read(file, image).await.or_exit(Exit::Usage)?),
                None => None,
            };
            let output = pull::Output::of(*quiet, *json);
            let channel = channel(config_file, connected).await?;
            pull::run(channel, image, auth, output)
                .await
                .or_exit(Exit::Unavailable)
        }
        ImageCommand::List { connected, output } => {
            let channel = channel(config_file, connected).await?;
            let images = store::details(channel, &[]).await;
            let images = images.or_exit(Exit::Unavailable)?;
            if output.json {
                println!("{}", list::json(&images));
            } else {
                print!("{}", list::table(&images));
            }
            Ok(())
        }
        ImageCommand::Inspect {
            connected,
            image,
            output,
        } => {
            let channel = channel(config_file, connected).await?;
            let images = store::details(channel, std::slice::from_ref(image)).await;
            for image in images.or_exit(Exit::Unavailable)? {
                if output.json {
                    println!("{:#}", store::json(&image));
                } else {
                    print!("{}", store::text(&image));
                }
            }
            Ok(())
        }
        ImageCommand::Remove { connected, images } => {
            let channel = channel(config_file, connected).await?;
            store::remove(channel, images)
                .await
                .or_exit(Exit::Unavailable)
        }
        ImageCommand::Prune {
            connected,
            all,
            dry_run,
            output,
        } => {
            let channel = channel(config_file, connected).await?;
            let pruned = store::prune(channel, *all, *dry_run).await;
            let pruned = pruned.or_exit(Exit::Unavailable)?;
            if output.json {
                println!("{:#}", store::pruned_json(&pruned));
            } else {
                print!("{}", store::pruned_text(&pruned, *dry_run));
            }
            Ok(())
        }
        ImageCommand::MakeStore {
            directory,
            images,
            archive,
        } => {
            let config = config::load(&Sources::new(config_file)).or_exit(Exit::Usage)?;
            let made = make_store::run(&config, directory, images, archive).await;
            for name in made.or_exit(Exit::Unavailable)? {
                println!("{name}");
            }
            Ok(())
        }
        ImageCommand::Verify {
            connected,
            images,
            repair,
            output,
        } => {
            let channel = channel(config_file, connected).await?;
            store::verify(channel, images, *repair, output.json).await
        }
    }
}

async fn channel(config_file: Option<&Path>, connected: &Connected) -> Result<Channel, Failure> {
    let socket = client::socket(connected, config_file).or_exit(Exit::Usage)?;
    client::connect(&socket).await.or_exit(Exit::Unavailable)
}

async fn explained(
    channel: Channel,
    image: &str,
    namespace: &str,
) -> Result<ExplainImageResponse, ClientError> {
    let mut client = AdminClient::new(channel).max_decoding_message_size(api::MAX_MESSAGE_BYTES);
    client
        .explain_image(ExplainImageRequest {
            name: image.to_owned(),
            namespace: namespace.to_owned(),
        })
        .await
        .asked("ExplainImage")
}

async fn import(channel: Channel, path: &Path, names: &[String]) -> Result<(), ArchiveError> {
    let unreadable = |source| ArchiveError::Read {
        path: path.to_owned(),
        source,
    };
    let input: Box<dyn AsyncRead + Send + Unpin> = if path == Path::new("-") {
        Box::new(tokio::io::stdin())
    } else {
        Box::new(File::open(path).await.map_err(unreadable)?)
    };
    let (pieces, stream) = mpsc::channel(PIECES_AHEAD);
    // While this sender lives, the stream has no end: an archive whose rest cannot be read must not look whole.
    let end_of_stream = pieces.clone();
    let mut client = AdminClient::new(channel).max_decoding_message_size(api::MAX_MESSAGE_BYTES);
    let mut importing = pin!(client.import_image(ReceiverStream::new(stream)));
    let mut reading = pin!(send_pieces(input, names.to_vec(), pieces));
    let answer = tokio::select! {
        answer = &mut importing => answer,
        read = &mut reading => {
            read.map_err(unreadable)?;
            drop(end_of_stream);
            importing.await
        }
    };
    let answer = answer.asked("ImportImage")?;
    print!("{}", list::names(&answer.images));
    Ok(())
}

/// Sends the archive piece by piece, the names with the first one.
async fn send_pieces(
    mut input: impl AsyncRead + Unpin,
    mut names: Vec<String>,
    pieces: mpsc::Sender<ImportImageRequest>,
) -> io::Result<()> {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        while piece.len() < PIECE_BYTES {
            if input.read_buf(&mut piece).await? == 0 {
                break;
            }
        }
        let data: Bytes = piece.freeze();
        if data.is_empty() && names.is_empty() {
            return Ok(());
        }
        let request = ImportImageRequest {
            names: std::mem::take(&mut names),
            data,
        };
        if pieces.send(request).await.is_err() {
            // The server has answered already; what it said is the result.
            return Ok(());
        }
    }
}

async fn export(
    channel: Channel,
    image: &str,
    path: &Path,
    format: Format,
) -> Result<(), ArchiveError> {
    let mut client = AdminClient::new(channel).max_decoding_message_size(api::MAX_MESSAGE_BYTES);
    let request = ExportImageRequest {
        name: image.to_owned(),
        format: match format {
            Format::Oci => ArchiveFormat::Oci.into(),
            Format::Docker => ArchiveFormat::Docker.into(),
        },
    };
    let mut pieces = client.export_image(request).await.asked("ExportImage")?;
    let unwritable = |source| ArchiveError::Write {
        path: path.to_owned(),
        source,
    };
    let next = async |pieces: &mut tonic::Streaming<_>| {
        pieces
            .message()
            .await
            .map_err(|status| ClientError::Refused {
                step: "ExportImage",
                status: Box::new(status),
            })
    };
    if path == Path::new("-") {
        let mut output = tokio::io::stdout();
        while let Some(api::admin::ExportImageResponse { data }) = next(&mut pieces).await? {
            output.write_all(&data).await.map_err(unwritable)?;
        }
        return output.flush().await.map_err(unwritable);
    }
    let unfinished = Unfinished::beside(path);
    let mut output = File::create(&unfinished.0).await.map_err(unwritable)?;
    while let Some(api::admin::ExportImageResponse { data }) = next(&mut pieces).await? {
        output.write_all(&data).await.map_err(unwritable)?;
    }
    output.flush().await.map_err(unwritable)?;
    std::fs::rename(&unfinished.0, path).map_err(unwritable)
}

/// An archive that is not whole yet, under another name; removed unless it was renamed.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        Self(name.into())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After the rename there is nothing under this name.
        let _ = std::fs::remove_file(&self.0);
    }
}
