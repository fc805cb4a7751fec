//! Joining with plain query parameters, as clients with two peer connections do on `/rtc`.

use std::collections::HashMap;

use auralink_livekit::client_info::{Capability, Sdk};
use auralink_livekit::{ClientInfo, ConnectionSettings, JoinRequest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::join_request::JoinRequestError;

/// Capabilities taken from one request.
const CAPABILITIES_MAX: usize = 32;

/// Reads the parameters into what a join request says.
///
/// # Errors
/// [`JoinRequestError`]
pub fn parse(parameters: &HashMap<String, String>) -> Result<JoinRequest, JoinRequestError> {
    let text = |name: &str| parameters.get(name).map(String::as_str).unwrap_or_default();
    let flag = |name: &str, unset: bool| match text(name) {
        "" => unset,
        value => value == "1" || value == "true",
    };
    let number = |name: &str| text(name).parse().unwrap_or_default();
    let client_info = ClientInfo {
        sdk: sdk(text("sdk")).into(),
        version: text("version").into(),
        protocol: number("protocol"),
        os: text("os").into(),
        os_version: text("os_version").into(),
        device_model: text("device_model").into(),
        browser: text("browser").into(),
        browser_version: text("browser_version").into(),
        network: text("network").into(),
        client_protocol: number("client_protocol"),
        capabilities: text("capabilities")
            .split(',')
            .take(CAPABILITIES_MAX)
            .filter_map(|name| Capability::from_str_name(name.trim()))
            .map(Into::into)
            .collect(),
        ..ClientInfo::default()
    };
    let settings = ConnectionSettings {
        auto_subscribe: flag("auto_subscribe", true),
        adaptive_stream: flag("adaptive_stream", false),
        subscriber_allow_pause: parameters
            .contains_key("subscriber_allow_pause")
            .then(|| flag("subscriber_allow_pause", false)),
        disable_ice_lite: flag("disable_ice_lite", false),
        auto_subscribe_data_track: parameters
            .contains_key("auto_subscribe_data_track")
            .then(|| flag("auto_subscribe_data_track", false)),
    };
    Ok(JoinRequest {
        client_info: Some(client_info),
        connection_settings: Some(settings),
        participant_attributes: attributes(text("attributes"))?,
        reconnect: flag("reconnect", false),
        reconnect_reason: number("reconnect_reason"),
        participant_sid: text("sid").into(),
        ..JoinRequest::default()
    })
}

/// base64url around a JSON object of strings.
fn attributes(text: &str) -> Result<HashMap<String, String>, JoinRequestError> {
    if text.is_empty() {
        return Ok(HashMap::new());
    }
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| JoinRequestError::Attributes)?;
    serde_json::from_slice(&bytes).map_err(|_| JoinRequestError::Attributes)
}

fn sdk(name: &str) -> Sdk {
    match name {
        "ios" => Sdk::Swift,
        "reactnative" => Sdk::ReactNative,
        "unityweb" => Sdk::UnityWeb,
        name => Sdk::from_str_name(&name.to_ascii_uppercase()).unwrap_or(Sdk::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<JoinRequest, JoinRequestError> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        parse(&pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn what_clients_say_is_read() {
        let request = read(
            "access_token=x&auto_subscribe=0&sdk=go&version=2.4.0&protocol=16&client_protocol=1&adaptive_stream=true\
             &capabilities=CAP_PACKET_TRAILER,CAP_WHATEVER&auto_subscribe_data_track=1&attributes=eyJhIjoiYiJ9",
        )
        .unwrap();
        let client = request.client_info.unwrap();
        assert_eq!((client.sdk(), client.version.as_str(), client.protocol), (Sdk::Go, "2.4.0", 16));
        assert_eq!(client.capabilities, [i32::from(Capability::CapPacketTrailer)]);
        let settings = request.connection_settings.unwrap();
        assert!(!settings.auto_subscribe && settings.adaptive_stream);
        assert_eq!((settings.auto_subscribe_data_track, settings.subscriber_allow_pause), (Some(true), None));
        assert_eq!(request.participant_attributes, HashMap::from([("a".to_owned(), "b".to_owned())]));
        assert!(!request.reconnect);
    }

    #[test]
    fn what_is_unset_means_subscribing_to_everything() {
        let settings = read("sdk=ios").unwrap().connection_settings.unwrap();
        assert!(settings.auto_subscribe && !settings.adaptive_stream);
        assert_eq!(read("sdk=ios").unwrap().client_info.unwrap().sdk(), Sdk::Swift);
        assert_eq!(read("sdk=abacus").unwrap().client_info.unwrap().sdk(), Sdk::Unknown);
    }

    #[test]
    fn coming_back_names_the_participant() {
        let request = read("reconnect=1&sid=PA_x&reconnect_reason=2").unwrap();
        assert!(request.reconnect);
        assert_eq!((request.participant_sid.as_str(), request.reconnect_reason), ("PA_x", 2));
    }

    #[test]
    fn attributes_that_are_no_object_of_strings_are_refused() {
        for text in ["!", "e30x", "WzFd"] {
            assert_eq!(read(&format!("attributes={text}")), Err(JoinRequestError::Attributes), "{text}");
        }
    }
}
