//! Participants whose signalling is HTTP: WHIP (RFC 9725) to publish, WHEP (draft-ietf-wish-whep) to watch.
//!
//! To its room each is a client like any other: a task holds its signalling connection, asks what SDK clients ask, and ends when
//! the client deletes the resource or the room lets the participant go.

pub mod announce;
pub mod fragment;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use auralink_livekit::{
    DisconnectReason, LeaveRequest, SessionDescription, SignalRequest, signal_request, signal_response,
};
use tokio::sync::{mpsc, oneshot};

use crate::rooms::Session;
use crate::rooms::actor::Outgoing;
use fragment::Fragment;

/// Longest a shard may take to be ready for what an answer says.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Longest a room may take to let a participant go.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);
/// Requests waiting for one resource.
const ASKS_MAX: usize = 8;

/// What a resource is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    Publish,
    Watch,
}

impl Purpose {
    /// Where such resources are made.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Publish => "/whip/v1",
            Self::Watch => "/whep/v1",
        }
    }
}

/// Whose resource it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    pub room: String,
    pub identity: String,
}

/// What became of a request to change a resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Patched {
    /// Nothing had to change: this side learns addresses from connectivity checks.
    Accepted,
    /// It is about an ICE session that is over.
    Stale,
    /// ICE starts anew: what the client needs for it, and the session's entity tag.
    Restarted { fragment: String, etag: String },
    /// The room did not answer.
    Failed,
}

/// A resource that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Created {
    pub id: String,
    pub etag: String,
    pub answer: String,
}

/// Why no resource was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CreateError {
    #[error("the room did not answer in time")]
    Silent,
    #[error("the offer was refused by the room")]
    Refused,
    #[error("nobody publishes anything in this room that the offer could receive; try again later")]
    NothingToWatch,
}

enum Ask {
    Patch { if_match: String, fragment: Fragment, reply: oneshot::Sender<Patched> },
    End(oneshot::Sender<()>),
}

struct Entry {
    purpose: Purpose,
    owner: Owner,
    asks: mpsc::Sender<Ask>,
}

/// All resources of this node, by identifier. Cheap to clone.
#[derive(Clone, Default)]
pub struct Resources {
    entries: Arc<Mutex<HashMap<String, Entry>>>,
}

impl Resources {
    fn table(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose a resource is; `None` when there is none.
    pub fn owner(&self, purpose: Purpose, id: &str) -> Option<Owner> {
        self.table().get(id).filter(|entry| entry.purpose == purpose).map(|entry| entry.owner.clone())
    }

    fn asks(&self, id: &str) -> Option<mpsc::Sender<Ask>> {
        self.table().get(id).map(|entry| entry.asks.clone())
    }

    /// Makes a resource of a participant that has just joined with `offer`.
    ///
    /// # Errors
    /// [`CreateError`]; the participant leaves then.
    pub async fn create(
        &self,
        purpose: Purpose,
        owner: Owner,
        session: Session,
        offer: String,
    ) -> Result<Created, CreateError> {
        let mut resource =
            Resource { id: String::new(), session, offer, negotiation: FIRST_OFFER, resources: self.clone() };
        let answer = match tokio::time::timeout(ANSWER_PATIENCE, resource.answer()).await {
            Ok(Some(answer)) if purpose == Purpose::Publish || !answer.mid_to_track_id.is_empty() => {
                answer.sdp
            }
            failed => {
                let error = match failed {
                    Ok(Some(_)) => CreateError::NothingToWatch,
                    Ok(None) => CreateError::Refused,
                    Err(_) => CreateError::Silent,
                };
                resource.leave().await;
                return Err(error);
            }
        };
        let (asks, inbox) = mpsc::channel(ASKS_MAX);
        let created = Created { id: resource.id.clone(), etag: resource.etag(), answer };
        self.table().insert(resource.id.clone(), Entry { purpose, owner, asks });
        tokio::spawn(resource.run(inbox));
        Ok(created)
    }

    /// A client trickles candidates or restarts ICE. `None` when there is no such resource any more.
    pub async fn patch(&self, id: &str, if_match: String, fragment: Fragment) -> Option<Patched> {
        let (reply, patched) = oneshot::channel();
        self.asks(id)?.send(Ask::Patch { if_match, fragment, reply }).await.ok()?;
        patched.await.ok()
    }

    /// Ends a resource, and waits until its participant has left. False when there is none.
    pub async fn end(&self, id: &str) -> bool {
        let Some(asks) = self.asks(id) else { return false };
        let (reply, ended) = oneshot::channel();
        asks.send(Ask::End(reply)).await.is_ok() && ended.await.is_ok()
    }
}

/// Identifier of the offer a participant joins with.
pub const FIRST_OFFER: u32 = 1;

struct Resource {
    /// The participant's sid.
    id: String,
    session: Session,
    /// The latest offer.
    offer: String,
    /// Identifier of the latest offer, by which its answer is known.
    negotiation: u32,
    resources: Resources,
}

impl Resource {
    /// Entity tag of the ICE session (RFC 9725 §4.3.1).
    fn etag(&self) -> String {
        format!("\"{}\"", self.negotiation)
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Ask>) {
        loop {
            let ask = tokio::select! {
                ask = inbox.recv() => ask,
                outgoing = self.session.outgoing.recv() => match outgoing {
                    Some(Outgoing::Message(message)) if !is_leave(message.message.as_ref()) => continue,
                    _ => None,
                },
            };
            match ask {
                // Whoever asked may have gone.
                Some(Ask::Patch { if_match, fragment, reply }) => {
                    drop(reply.send(self.patch(&if_match, &fragment).await));
                }
                Some(Ask::End(reply)) => {
                    self.leave().await;
                    let _ = reply.send(());
                    break;
                }
                None => break,
            }
        }
        self.resources.table().remove(&self.id);
    }

    async fn patch(&mut self, if_match: &str, fragment: &Fragment) -> Patched {
        if if_match != "*" && if_match != self.etag() {
            return Patched::Stale;
        }
        let Some(offer) = fragment.restarts(&self.offer) else { return Patched::Accepted };
        let negotiation = self.negotiation + 1;
        let description = SessionDescription {
            r#type: "offer".into(),
            sdp: offer.clone(),
            id: negotiation,
            ..SessionDescription::default()
        };
        if !self.request(signal_request::Message::Offer(description)).await {
            return Patched::Failed;
        }
        (self.offer, self.negotiation) = (offer, negotiation);
        match tokio::time::timeout(ANSWER_PATIENCE, self.answer()).await {
            Ok(Some(answer)) => {
                Patched::Restarted { fragment: fragment::of_answer(&answer.sdp), etag: self.etag() }
            }
            Ok(None) | Err(_) => Patched::Failed,
        }
    }

    /// The answer to the latest offer; `None` when the room has let the participant go instead.
    async fn answer(&mut self) -> Option<SessionDescription> {
        loop {
            let Outgoing::Message(message) = self.session.outgoing.recv().await? else { return None };
            match &message.message {
                Some(signal_response::Message::Join(join)) => {
                    let participant = join.participant.as_ref()?;
                    self.id.clone_from(&participant.sid);
                }
                Some(signal_response::Message::Answer(answer)) if answer.id == self.negotiation => {
                    return Some(answer.clone());
                }
                other if is_leave(other.as_ref()) => return None,
                _ => {}
            }
        }
    }

    async fn request(&self, message: signal_request::Message) -> bool {
        self.session.request(SignalRequest { message: Some(message) }).await
    }

    /// Takes leave, and waits until the room has let the participant go.
    async fn leave(&mut self) {
        let leave =
            LeaveRequest { reason: DisconnectReason::ClientInitiated.into(), ..LeaveRequest::default() };
        if !self.request(signal_request::Message::Leave(leave)).await {
            return;
        }
        let gone = async { while let Some(Outgoing::Message(_)) = self.session.outgoing.recv().await {} };
        // A room that is slower than that lets it go all the same.
        let _ = tokio::time::timeout(LEAVE_PATIENCE, gone).await;
    }
}

fn is_leave(message: Option<&signal_response::Message>) -> bool {
    matches!(message, Some(signal_response::Message::Leave(_)))
}
