//! Webhooks: events of rooms posted to other servers, signed, in order for each room, and never holding up a room.
//!
//! Each URL has ten lanes, a bounded queue and a task each. A room's events take one lane, so they arrive in order; an event
//! that is being retried holds up a tenth of the rooms. What does not fit, and what no attempt could deliver, is counted, and
//! the next event of that lane says in `numDropped` how many went missing before it.

mod client;
mod event;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use auralink_livekit::WebhookEvent;
use axum::http::Uri;
use tokio::sync::mpsc;

use crate::auth::Keys;
use crate::chance::Chance;
use crate::config::Webhook;
use crate::negotiator::Random as _;
use crate::rooms::notices::Notice;
use crate::telemetry::{Telemetry, count};
pub use client::ClientError;
use client::{Attempt, Client};

/// Lanes of each URL.
const LANES: usize = 10;
/// Times an event is sent before it is given up: about half a minute with the waits between.
const ATTEMPTS_MAX: u32 = 8;
/// Wait before the second attempt; it doubles with each further one.
const BACK_OFF: Duration = Duration::from_millis(250);
/// Life of a signature, in seconds; the last attempt is well within it.
const SIGNATURE_LIFE_S: f64 = 300.0;
/// Letters and digits of an event's identifier.
const ID_LEN: usize = 12;

/// All receivers of webhooks. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    /// By URL, then by lane.
    receivers: Arc<[Vec<Lane>]>,
    telemetry: Arc<Telemetry>,
    waiting: Arc<AtomicUsize>,
}

struct Lane {
    queue: mpsc::Sender<WebhookEvent>,
    /// Events that did not fit since the last one that did.
    dropped: AtomicI32,
}

impl Webhooks {
    /// Starts the tasks; `None` when no URL is configured.
    ///
    /// # Errors
    /// [`ClientError`]; the operator's to mend.
    pub fn start(
        config: &Webhook,
        keys: &Keys,
        telemetry: Arc<Telemetry>,
    ) -> Result<Option<Self>, ClientError> {
        if config.urls.is_empty() {
            return Ok(None);
        }
        let client = Client::new(config)?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut receivers: Vec<Vec<Lane>> = Vec::new();
        for url in &config.urls {
            let url: Uri = url.parse().map_err(|_| ClientError::Url(url.clone()))?;
            let lane = |_: usize| {
                let (queue, events) = mpsc::channel(config.queue_max.max(1));
                let courier = Courier {
                    client: client.clone(),
                    url: url.clone(),
                    keys: keys.clone(),
                    api_key: config.api_key.clone(),
                    telemetry: Arc::clone(&telemetry),
                    waiting: Arc::clone(&waiting),
                };
                tokio::spawn(courier.run(events));
                Lane { queue, dropped: AtomicI32::new(0) }
            };
            receivers.push((0..LANES).map(lane).collect());
        }
        Ok(Some(Self { receivers: receivers.into(), telemetry, waiting }))
    }

    /// Queues a notice for every URL.
    pub fn post(&self, notice: &Notice) {
        let mut hasher = DefaultHasher::new();
        notice.room.name.hash(&mut hasher);
        let lane = (hasher.finish() % LANES as u64) as usize;
        let id = format!("EV_{}", Chance.word(ID_LEN));
        let event = event::of(notice, id);
        for lanes in self.receivers.iter() {
            if let Some(lane) = lanes.get(lane) {
                self.queue(lane, event.clone());
            }
        }
    }

    #[allow(deprecated, reason = "receivers read it")]
    fn queue(&self, lane: &Lane, mut event: WebhookEvent) {
        event.num_dropped = lane.dropped.swap(0, Ordering::Relaxed);
        let told = event.num_dropped;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if lane.queue.try_send(event).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            lane.dropped.fetch_add(told + 1, Ordering::Relaxed);
            count(&self.telemetry.counters.webhooks_dropped);
        }
    }

    /// Waits until nothing waits to be sent, and no longer than this.
    pub async fn flush(&self, patience: Duration) {
        let empty = async {
            while self.waiting.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(patience, empty).await;
    }
}

/// Carries the events of one lane.
struct Courier {
    client: Client,
    url: Uri,
    keys: Keys,
    api_key: String,
    telemetry: Arc<Telemetry>,
    waiting: Arc<AtomicUsize>,
}

impl Courier {
    #[allow(deprecated, reason = "receivers read it")]
    async fn run(self, mut events: mpsc::Receiver<WebhookEvent>) {
        // Events that were not delivered, and what those would have told, since the last that was.
        let mut lost = 0_i32;
        while let Some(mut event) = events.recv().await {
            event.num_dropped = event.num_dropped.saturating_add(lost);
            let delivered = self.deliver(&event).await;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            if delivered {
                lost = 0;
                count(&self.telemetry.counters.webhooks_delivered);
            } else {
                lost = event.num_dropped.saturating_add(1);
                count(&self.telemetry.counters.webhooks_dropped);
            }
        }
    }

    /// Sends one event until it is accepted or given up.
    async fn deliver(&self, event: &WebhookEvent) -> bool {
        let Some((body, token)) = event::sign(event, &self.keys, &self.api_key, SIGNATURE_LIFE_S) else {
            tracing::error!(event = %event.event, "a webhook could not be signed");
            return false;
        };
        let mut wait = BACK_OFF;
        for attempt in 1..=ATTEMPTS_MAX {
            let why = match self.client.post(&self.url, &token, body.clone()).await {
                Attempt::Accepted => return true,
                Attempt::Refused(status) => {
                    tracing::warn!(event = %event.event, %status, "a webhook was refused; it is not sent again");
                    return false;
                }
                Attempt::Failed(why) => why,
            };
            tracing::debug!(event = %event.event, attempt, %why, "a webhook was not delivered");
            if attempt < ATTEMPTS_MAX {
                count(&self.telemetry.counters.webhooks_retried);
                tokio::time::sleep(wait).await;
                wait *= 2;
            } else {
                tracing::warn!(event = %event.event, %why, "a webhook is given up: does its receiver run?");
            }
        }
        false
    }
}
