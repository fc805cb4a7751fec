//! Which server, which room, and with what right.

use anyhow::{Context as _, Result};

use crate::token;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Target {
    /// Server: ws://host:port or http://host:port.
    #[arg(long, default_value = "ws://127.0.0.1:7880")]
    pub(crate) url: String,
    /// API key to mint tokens with.
    #[arg(long, requires = "secret", required_unless_present = "token")]
    key: Option<String>,
    #[arg(long, env = "LIVEKIT_API_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// A ready token instead of a key; then there can be one peer only.
    #[arg(long, conflicts_with = "key")]
    token: Option<String>,
    #[arg(long, default_value = "loadtest")]
    pub(crate) room: String,
}

/// What opens every server of a comparison.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Credentials {
    /// API key to mint tokens with.
    #[arg(long)]
    key: String,
    #[arg(long, env = "LIVEKIT_API_SECRET", hide_env_values = true)]
    secret: String,
    #[arg(long, default_value = "loadtest")]
    room: String,
}

impl Credentials {
    pub(crate) fn target(&self, url: &str) -> Target {
        Target {
            url: url.to_owned(),
            key: Some(self.key.clone()),
            secret: Some(self.secret.clone()),
            token: None,
            room: self.room.clone(),
        }
    }
}

impl Target {
    /// The token with which `identity` joins.
    pub(crate) fn token(&self, identity: &str) -> Result<String> {
        self.token_for(identity, &self.room)
    }

    /// The same for another room.
    pub(crate) fn token_for(&self, identity: &str, room: &str) -> Result<String> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        let key = self.key.as_deref().context("--key is missing")?;
        token::mint(key, self.secret.as_deref().context("--secret is missing")?, identity, room)
    }
}
