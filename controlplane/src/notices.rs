//! Who is told what happens in rooms.

use crate::agents::Agents;
use crate::rooms::notices::Notice;
use crate::webhooks::Webhooks;

/// Everybody to be told. Cheap to clone.
#[derive(Clone)]
pub struct Notices {
    /// Unset where no webhooks are configured.
    pub webhooks: Option<Webhooks>,
    pub agents: Agents,
}

impl Notices {
    /// Tells one notice. A room calls this in order of what happens to it, and is not held up by slow receivers.
    pub async fn deliver(&self, notice: Notice) {
        if let Some(webhooks) = &self.webhooks {
            webhooks.post(&notice);
        }
        self.agents.notice(notice).await;
    }
}
