// LiveKit's Go SDK, which its command line tool is made of, as a participant and as a caller of the server API.
//
//	peer echo URL TOKEN          sends back the media and the data of whoever it hears, until standard input ends
//	peer rooms URL KEY SECRET    makes, lists and deletes a room
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/livekit/protocol/livekit"
	lksdk "github.com/livekit/server-sdk-go/v2"
	"github.com/pion/webrtc/v4"
)

// Between two requests for a key frame: whoever comes late needs one of the original, too.
const keyFrameInterval = time.Second

func main() {
	arguments := os.Args[1:]
	var err error
	switch {
	case len(arguments) == 3 && arguments[0] == "echo":
		err = echo(arguments[1], arguments[2])
	case len(arguments) == 4 && arguments[0] == "rooms":
		err = rooms(arguments[1], arguments[2], arguments[3])
	default:
		err = fmt.Errorf("unknown task: %v", arguments)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func echo(url, token string) error {
	var room *lksdk.Room
	joined := make(chan struct{})
	failed := make(chan error, 16)
	callback := lksdk.NewRoomCallback()
	callback.OnTrackSubscribed = func(track *webrtc.TrackRemote, _ *lksdk.RemoteTrackPublication, from *lksdk.RemoteParticipant) {
		// The caller reads signalling, which publishing waits for.
		go func() {
			<-joined
			if err := sendBack(room, track, from); err != nil {
				failed <- err
			}
		}()
	}
	callback.OnDataPacket = func(data lksdk.DataPacket, _ lksdk.DataReceiveParams) {
		<-joined
		packet, ok := data.(*lksdk.UserDataPacket)
		if !ok {
			return
		}
		back := lksdk.UserData(append([]byte("echo of "), packet.Payload...))
		if err := room.LocalParticipant.PublishDataPacket(back, lksdk.WithDataPublishReliable(true), lksdk.WithDataPublishTopic(packet.Topic)); err != nil {
			failed <- err
		}
	}
	room, err := lksdk.ConnectToRoomWithToken(url, token, callback, lksdk.WithAutoSubscribe(true))
	if err != nil {
		return err
	}
	close(joined)
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	select {
	case err = <-failed:
	case <-ended:
	}
	room.Disconnect()
	return err
}

// Publishes what comes as it comes.
func sendBack(room *lksdk.Room, track *webrtc.TrackRemote, from *lksdk.RemoteParticipant) error {
	source := livekit.TrackSource_MICROPHONE
	if track.Kind() == webrtc.RTPCodecTypeVideo {
		source = livekit.TrackSource_CAMERA
	}
	back, err := webrtc.NewTrackLocalStaticRTP(track.Codec().RTPCodecCapability, "echo-"+track.ID(), "echo")
	if err != nil {
		return err
	}
	options := &lksdk.TrackPublicationOptions{Name: "echo", Source: source}
	if _, err := room.LocalParticipant.PublishTrack(back, options); err != nil {
		return err
	}
	go func() {
		asked := time.Time{}
		for {
			packet, _, err := track.ReadRTP()
			if err != nil {
				return
			}
			if source == livekit.TrackSource_CAMERA && time.Since(asked) > keyFrameInterval {
				asked = time.Now()
				from.WritePLI(track.SSRC())
			}
			// The identifiers of extensions are another connection's.
			packet.Extension, packet.Extensions = false, nil
			if err := back.WriteRTP(packet); err != nil {
				return
			}
		}
	}()
	return nil
}

func rooms(url, key, secret string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := lksdk.NewRoomServiceClient(url, key, secret)
	made, err := client.CreateRoom(ctx, &livekit.CreateRoomRequest{Name: "made by Go", Metadata: "known"})
	if err != nil {
		return err
	}
	listed, err := client.ListRooms(ctx, &livekit.ListRoomsRequest{Names: []string{"made by Go"}})
	if err != nil {
		return err
	}
	if len(listed.Rooms) != 1 || listed.Rooms[0].Sid != made.Sid || listed.Rooms[0].Metadata != "known" {
		return fmt.Errorf("listed: %v", listed.Rooms)
	}
	if _, err := client.DeleteRoom(ctx, &livekit.DeleteRoomRequest{Room: "made by Go"}); err != nil {
		return err
	}
	listed, err = client.ListRooms(ctx, &livekit.ListRoomsRequest{Names: []string{"made by Go"}})
	if err != nil {
		return err
	}
	if len(listed.Rooms) != 0 {
		return fmt.Errorf("still listed: %v", listed.Rooms)
	}
	return nil
}
