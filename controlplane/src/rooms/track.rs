//! A published track: what others see of it, and which simulcast layer a wish amounts to.

use auralink_livekit::{
    AddTrackRequest, AudioTrackFeature, SimulcastCodec, SimulcastCodecInfo, SubscriptionPermission,
    TrackInfo, TrackSource, TrackType, UpdateTrackSettings, VideoLayer, VideoQuality, encryption,
    video_layer,
};
use auralink_proto::{Codec, Encoding, Intent, MediaKind, TrackId};

use crate::negotiator::codec::{Preference, encoding};

/// Layers told of one track.
const LAYERS_MAX: usize = 8;

use super::backup::Backup;
use super::dynacast::Demand;

/// A track as its room knows it.
#[derive(Clone, Debug)]
pub struct Track {
    pub id: TrackId,
    pub kind: MediaKind,
    pub info: TrackInfo,
    /// What its media really is, once there is any.
    pub codec: Option<Codec>,
    /// Authentic RTP has arrived: others may see it.
    pub live: bool,
    /// Simulcast layers negotiated.
    pub layers: usize,
    /// Whether its publisher was told that somebody subscribes.
    pub subscribed: bool,
    /// Last level told to clients, in eighths.
    pub level_eighths: u8,
    pub demand: Demand,
    /// The same once more, for those who cannot decode the first.
    pub backup: Backup,
}

impl Track {
    /// Its media has begun, in this codec.
    pub fn set_codec(&mut self, codec: Codec) {
        self.codec = Some(codec);
        let mime = codec.encoding().mime();
        let codecs = &mut self.info.codecs;
        if self.info.mime_type != mime && codecs.iter().all(|known| known.mime_type != mime) {
            // It is none of those announced: the first of them is what came.
            codecs.first_mut().into_iter().for_each(|first| first.mime_type = mime.into());
        }
        self.info.mime_type = mime.into();
    }

    /// Whether its payloads are encrypted end to end.
    pub fn is_encrypted(&self) -> bool {
        self.info.encryption() != encryption::Type::None
    }
}

/// Letter of a source in a track's sid.
fn source_letter(source: TrackSource) -> char {
    match source {
        TrackSource::Camera => 'C',
        TrackSource::Microphone => 'M',
        TrackSource::ScreenShare => 'S',
        TrackSource::ScreenShareAudio => 's',
        TrackSource::Unknown => 'U',
    }
}

/// `TR_`, a letter for the kind, one for the source: what a track's sid begins with.
pub fn sid_prefix(kind: MediaKind, source: TrackSource) -> String {
    let kind = if kind == MediaKind::Audio { 'A' } else { 'V' };
    format!("TR_{kind}{}", source_letter(source))
}

/// The kind of media a client announces; `None` for kinds that are not media.
pub fn media_kind(request: &AddTrackRequest) -> Option<MediaKind> {
    match TrackType::try_from(request.r#type) {
        Ok(TrackType::Audio) => Some(MediaKind::Audio),
        Ok(TrackType::Video) => Some(MediaKind::Video),
        _ => None,
    }
}

/// The codecs announced, by their own names; the client's first choice first.
fn announced(
    kind: MediaKind,
    request: &AddTrackRequest,
) -> impl Iterator<Item = (Encoding, &SimulcastCodec)> {
    let known = move |codec: &'_ SimulcastCodec| encoding(&codec.codec).filter(|known| known.kind() == kind);
    request.simulcast_codecs.iter().filter_map(move |codec| Some((known(codec)?, codec)))
}

/// What the answer to a track's offer has to say of its codecs.
pub fn preference(kind: MediaKind, request: &AddTrackRequest) -> Preference {
    let encrypted = request.encryption() != encryption::Type::None;
    Preference {
        codec: announced(kind, request).next().map(|(encoding, _)| encoding),
        red: kind == MediaKind::Audio && !request.disable_red && !encrypted,
        encrypted,
    }
}

/// How the layers of one codec are sent. Codecs that can put all of them into one stream do so unless told otherwise.
fn layer_mode(encoding: Encoding, announced: Option<&SimulcastCodec>, layers: usize) -> video_layer::Mode {
    let told = announced.map(SimulcastCodec::video_layer_mode).unwrap_or_default();
    match encoding {
        _ if told != video_layer::Mode::Unused => told,
        _ if layers <= 1 => video_layer::Mode::Unused,
        Encoding::Vp9 | Encoding::Av1 => video_layer::Mode::MultipleSpatialLayersPerStream,
        _ => video_layer::Mode::OneSpatialLayerPerStream,
    }
}

/// What others are told of each codec announced, or of the one that is meant when none is.
fn codec_infos(kind: MediaKind, request: &AddTrackRequest, layers: &[VideoLayer]) -> Vec<SimulcastCodecInfo> {
    let info = |encoding: Encoding, announced: Option<&SimulcastCodec>| {
        let own = announced.map(|codec| codec.layers.as_slice()).filter(|own| !own.is_empty());
        let mut layers = own.unwrap_or(layers).to_vec();
        layers.truncate(LAYERS_MAX);
        SimulcastCodecInfo {
            mime_type: encoding.mime().into(),
            cid: announced.map_or(&request.cid, |codec| &codec.cid).clone(),
            video_layer_mode: layer_mode(encoding, announced, layers.len()).into(),
            layers,
            ..SimulcastCodecInfo::default()
        }
    };
    let mut infos: Vec<_> =
        announced(kind, request).map(|(encoding, codec)| info(encoding, Some(codec))).collect();
    if infos.is_empty() {
        let meant = if kind == MediaKind::Audio { Encoding::Opus } else { Encoding::Vp8 };
        infos.push(info(meant, None));
    }
    infos
}

/// What others are told, from what the publisher announced.
#[allow(deprecated, reason = "older clients read the deprecated fields")]
pub fn track_info(sid: String, kind: MediaKind, request: &AddTrackRequest) -> TrackInfo {
    let codec = request.simulcast_codecs.first();
    let mut layers: Vec<VideoLayer> = if request.layers.is_empty() {
        codec.map(|c| c.layers.clone()).unwrap_or_default()
    } else {
        request.layers.clone()
    };
    layers.truncate(LAYERS_MAX);
    if kind == MediaKind::Video && layers.is_empty() {
        layers.push(VideoLayer {
            quality: VideoQuality::High.into(),
            width: request.width,
            height: request.height,
            ..VideoLayer::default()
        });
    }
    let codecs = codec_infos(kind, request, &layers);
    let features = request.audio_features.clone();
    TrackInfo {
        sid,
        r#type: request.r#type,
        name: request.name.clone(),
        muted: request.muted,
        width: request.width,
        height: request.height,
        simulcast: layers.len() > 1,
        disable_dtx: request.disable_dtx || features.contains(&AudioTrackFeature::TfNoDtx.into()),
        source: request.source,
        mime_type: codecs.first().map(|codec| codec.mime_type.clone()).unwrap_or_default(),
        codecs,
        layers,
        stereo: request.stereo || features.contains(&AudioTrackFeature::TfStereo.into()),
        disable_red: !preference(kind, request).red,
        encryption: request.encryption,
        stream: stream(request),
        audio_features: features,
        backup_codec_policy: request.backup_codec_policy,
        packet_trailer_features: request.packet_trailer_features.clone(),
        ..TrackInfo::default()
    }
}

/// Tracks of one stream are kept in step: camera with microphone, screen with its sound.
fn stream(request: &AddTrackRequest) -> String {
    if !request.stream.is_empty() {
        return request.stream.clone();
    }
    match request.source() {
        TrackSource::Camera | TrackSource::Microphone => "camera".into(),
        TrackSource::ScreenShare | TrackSource::ScreenShareAudio => "screen".into(),
        TrackSource::Unknown => String::new(),
    }
}

/// Opus parameters asked of the publisher in the answer's `a=fmtp`.
#[allow(deprecated, reason = "older clients write the deprecated fields")]
pub fn opus_extra(info: &TrackInfo) -> String {
    let mut extra = String::new();
    if !info.disable_dtx {
        extra.push_str(";usedtx=1");
    }
    if info.stereo {
        extra.push_str(";stereo=1;maxaveragebitrate=510000");
    }
    extra
}

/// The quality whose layer is tall enough for a tile, a tenth smaller being tall enough.
#[allow(deprecated, reason = "older clients read the deprecated fields")]
fn quality_for_dimensions(info: &TrackInfo, width: u32, height: u32) -> VideoQuality {
    let portrait = info.width < info.height;
    let size = |width: u32, height: u32| if portrait { width } else { height };
    let wanted = u64::from(size(width, height)) * 9 / 10;
    let mut sizes: Vec<(VideoQuality, u32)> = info
        .layers
        .iter()
        .map(|layer| (layer.quality(), size(layer.width, layer.height)))
        .filter(|(quality, _)| *quality != VideoQuality::Off)
        .collect();
    if sizes.is_empty() || sizes.iter().any(|(_, size)| *size == 0) {
        sizes = vec![
            (VideoQuality::Low, 180),
            (VideoQuality::Medium, 360),
            (VideoQuality::High, size(info.width, info.height)),
        ];
    }
    sizes.sort_by_key(|(quality, size)| (*size, *quality as i32));
    let mut chosen = VideoQuality::High;
    for (index, (quality, size)) in sizes.iter().enumerate() {
        chosen = *quality;
        // Among layers of one height the highest is as good.
        let twin = sizes.get(index + 1).is_some_and(|(_, next)| next == size);
        if u64::from(*size) >= wanted && !twin {
            break;
        }
    }
    chosen
}

/// Position of a quality among the layers there are.
#[allow(deprecated, reason = "older clients read the deprecated fields")]
fn layer_for_quality(info: &TrackInfo, wanted: VideoQuality) -> u8 {
    if wanted == VideoQuality::High {
        return u8::MAX;
    }
    let below = info
        .layers
        .iter()
        .filter(|layer| layer.quality() != VideoQuality::Off && layer.quality <= wanted as i32)
        .count();
    below.saturating_sub(1) as u8
}

/// The quality a subscriber wants of a track, from its latest settings.
pub fn wanted_quality(
    info: &TrackInfo,
    settings: Option<&UpdateTrackSettings>,
    adaptive_stream: bool,
) -> VideoQuality {
    match settings {
        // Adaptive clients say what they need once a tile is laid out; until then the least is sent.
        None if adaptive_stream => VideoQuality::Low,
        None => VideoQuality::High,
        Some(settings) if settings.disabled => VideoQuality::Off,
        Some(settings) if settings.width > 0 && settings.height > 0 => {
            quality_for_dimensions(info, settings.width, settings.height)
        }
        Some(settings) => settings.quality(),
    }
}

/// The same as the shard hears it.
pub fn intent(info: &TrackInfo, settings: Option<&UpdateTrackSettings>, adaptive_stream: bool) -> Intent {
    let quality = wanted_quality(info, settings, adaptive_stream);
    Intent { layer_max: layer_for_quality(info, quality), paused: quality == VideoQuality::Off }
}

/// Whether a publisher's permissions let a subscriber have a track.
pub fn is_permitted(
    permission: Option<&SubscriptionPermission>,
    sid: &str,
    identity: &str,
    track: &str,
) -> bool {
    let Some(permission) = permission else { return true };
    permission.all_participants
        || permission.track_permissions.iter().any(|entry| {
            let named = (!entry.participant_sid.is_empty() && entry.participant_sid == sid)
                || (!entry.participant_identity.is_empty() && entry.participant_identity == identity);
            named && (entry.all_tracks || entry.track_sids.iter().any(|t| t == track))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_livekit::TrackPermission;

    fn camera(sizes: &[(u32, u32)]) -> TrackInfo {
        let qualities = [VideoQuality::Low, VideoQuality::Medium, VideoQuality::High];
        let layers = sizes
            .iter()
            .zip(qualities)
            .map(|((width, height), quality)| VideoLayer {
                quality: quality.into(),
                width: *width,
                height: *height,
                ..VideoLayer::default()
            })
            .collect();
        let (width, height) = *sizes.last().unwrap();
        let request = AddTrackRequest { r#type: 1, width, height, layers, ..AddTrackRequest::default() };
        track_info("TR_1".into(), MediaKind::Video, &request)
    }

    fn layer(info: &TrackInfo, width: u32, height: u32) -> u8 {
        let settings = UpdateTrackSettings { width, height, ..UpdateTrackSettings::default() };
        intent(info, Some(&settings), true).layer_max
    }

    #[test]
    fn a_tile_gets_the_lowest_layer_tall_enough() {
        let info = camera(&[(320, 180), (640, 360), (1280, 720)]);
        assert_eq!(layer(&info, 160, 90), 0);
        assert_eq!(layer(&info, 355, 200), 0, "a tenth smaller is tall enough");
        assert_eq!(layer(&info, 360, 203), 1);
        assert_eq!(layer(&info, 710, 400), 1);
        assert_eq!(layer(&info, 800, 450), u8::MAX);
        assert_eq!(layer(&info, 4_000, 3_000), u8::MAX);
    }

    #[test]
    fn portrait_video_is_measured_across() {
        let info = camera(&[(180, 320), (360, 640), (720, 1280)]);
        assert_eq!(layer(&info, 100, 2_000), 0);
        assert_eq!(layer(&info, 300, 300), 1);
    }

    #[test]
    fn of_equal_layers_the_highest_is_chosen() {
        let info = camera(&[(640, 360), (640, 360), (1280, 720)]);
        assert_eq!(layer(&info, 320, 180), 1);
    }

    #[test]
    fn qualities_count_the_layers_there_are() {
        let two = camera(&[(320, 180), (640, 360)]);
        let at = |quality: VideoQuality| {
            let settings = UpdateTrackSettings { quality: quality.into(), ..UpdateTrackSettings::default() };
            intent(&two, Some(&settings), false)
        };
        assert_eq!(at(VideoQuality::Low).layer_max, 0);
        assert_eq!(at(VideoQuality::Medium).layer_max, 1);
        assert_eq!(at(VideoQuality::High).layer_max, u8::MAX);
        assert!(at(VideoQuality::Off).paused);
    }

    #[test]
    fn adaptive_clients_start_low_and_others_high() {
        let info = camera(&[(320, 180), (640, 360)]);
        assert_eq!(intent(&info, None, true).layer_max, 0);
        assert_eq!(intent(&info, None, false).layer_max, u8::MAX);
    }

    #[test]
    fn permissions_name_participants_by_sid_or_identity() {
        let permission = SubscriptionPermission {
            all_participants: false,
            track_permissions: vec![
                TrackPermission {
                    participant_sid: "PA_1".into(),
                    all_tracks: true,
                    ..TrackPermission::default()
                },
                TrackPermission {
                    participant_identity: "bob".into(),
                    track_sids: vec!["TR_1".into()],
                    ..TrackPermission::default()
                },
            ],
        };
        let permitted = |sid, identity, track| is_permitted(Some(&permission), sid, identity, track);
        assert!(permitted("PA_1", "x", "TR_9"));
        assert!(permitted("PA_2", "bob", "TR_1"));
        assert!(!permitted("PA_2", "bob", "TR_2"));
        assert!(!permitted("PA_2", "", "TR_1"));
        assert!(is_permitted(None, "PA_2", "bob", "TR_2"));
    }
}
