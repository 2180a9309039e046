//! `pintle image pull`: a pull that is looked on at. Whoever interrupts it closes the connection, and that gives it up.

use std::io::{self, IsTerminal, Write as _};

use api::{
    admin::{PullImageRequest, admin_client::AdminClient, pull_image_response::Event},
    cri,
};
use tonic::transport::Channel;

use super::progress;
use crate::client::{Asked, ClientError};

/// What is asked for in error messages.
const STEP: &str = "PullImage";
/// Where the terminal does not say how wide it is.
const USUAL_WIDTH: usize = 80;

/// What is shown on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// A line that is drawn anew, on standard error.
    Bar,
    /// Objects, one a line, on standard output.
    Json,
    /// Nothing.
    Quiet,
}

impl Output {
    /// A bar is for terminals only.
    pub(super) fn of(quiet: bool, json: bool) -> Self {
        if json {
            Self::Json
        } else if quiet || !io::stderr().is_terminal() {
            Self::Quiet
        } else {
            Self::Bar
        }
    }
}

/// The line that is drawn anew; wiped away when this is dropped.
struct Bar {
    shown: bool,
}

impl Bar {
    fn draw(&mut self, text: &str) {
        self.shown = true;
        // A terminal that is gone is nobody's loss.
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

/// Pulls an image and prints its id.
pub(super) async fn run(
    channel: Channel,
    image: &str,
    auth: Option<cri::AuthConfig>,
    output: Output,
) -> Result<(), ClientError> {
    let mut client = AdminClient::new(channel).max_decoding_message_size(api::MAX_MESSAGE_BYTES);
    let request = PullImageRequest {
        reference: image.to_owned(),
        auth,
    };
    let mut events = client.pull_image(request).await.asked(STEP)?;
    let mut bar = Bar { shown: false };
    let pulled = loop {
        let message = events
            .message()
            .await
            .map_err(|status| ClientError::Refused {
                step: STEP,
                status: Box::new(status),
            })?;
        match message.and_then(|message| message.event) {
            Some(Event::Image(pulled)) => break pulled,
            Some(Event::Progress(progress)) => match output {
                // One less: the cursor takes a column, too.
                Output::Bar => bar.draw(&progress::line(&progress, width() - 1)),
                Output::Json => println!("{}", progress::json(&progress)),
                Output::Quiet => {}
            },
            None => {
                return Err(ClientError::Incomplete {
                    step: STEP,
                    lacks: "end",
                });
            }
        }
    };
    drop(bar);
    if output == Output::Json {
        let told = serde_json::json!({
            "id": pulled.id,
            "repoTags": pulled.repo_tags,
            "repoDigests": pulled.repo_digests,
            "sizeBytes": pulled.size,
        });
        println!("{told}");
    } else {
        println!("{}", pulled.id);
    }
    Ok(())
}

fn width() -> usize {
    rustix::termios::tcgetwinsize(io::stderr())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|width| *width > 1)
        .unwrap_or(USUAL_WIDTH)
}
