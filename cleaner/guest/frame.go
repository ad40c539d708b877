package guest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"chromogenic/disk"
)

// maxFrame bounds a message, in bytes: base64 of the largest order or reply, and
// the facts of a disk with all its partitions.
const maxFrame = 24 << 20

// MaxReply bounds what a Work returns, and its order, in bytes.
const MaxReply = 16 << 20

// frameMagic begins each message. The console may have other text before it.
var frameMagic = []byte("\x00chromogenic guest\n")

// writeFrame sends v as JSON: the magic, length and CRC-32 of the text as big-endian
// words, the text.
func writeFrame(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	if len(text) > maxFrame {
		return disk.Errorf(disk.TooLarge, "write message: %d bytes are more than %d", len(text), maxFrame)
	}
	head := bytes.Clone(frameMagic)
	head = binary.BigEndian.AppendUint32(head, uint32(len(text)))
	head = binary.BigEndian.AppendUint32(head, crc32.ChecksumIEEE(text))
	if _, err := w.Write(append(head, text...)); err != nil {
		return fmt.Errorf("write message: %w", err)
	}
	return nil
}

// readFrame receives a message into v, and passes over what comes before its magic,
// up to 1 MiB of it. The other side may be hostile: what it says of the length is
// believed as the bytes come.
func readFrame(r *bufio.Reader, v any) error {
	if err := seekMagic(r); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	n, sum := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
	if n > maxFrame {
		return disk.Errorf(disk.Malformed, "read message: %d bytes are more than %d", n, maxFrame)
	}
	var text bytes.Buffer
	if _, err := io.CopyN(&text, r, int64(n)); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	if crc32.ChecksumIEEE(text.Bytes()) != sum {
		return disk.Errorf(disk.Malformed, "read message: checksum differs")
	}
	if err := json.Unmarshal(text.Bytes(), v); err != nil {
		return disk.Errorf(disk.Malformed, "read message: %w", err)
	}
	return nil
}

// seekMagic reads up to the end of the magic, whose first byte is not in the rest.
func seekMagic(r *bufio.Reader) error {
	at := 0
	for range 1 << 20 {
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		switch {
		case b == frameMagic[at]:
			if at++; at == len(frameMagic) {
				return nil
			}
		case b == frameMagic[0]:
			at = 1
		default:
			at = 0
		}
	}
	return disk.Errorf(disk.Malformed, "no beginning within 1 MiB")
}

// A failure is an error on its way between processes.
type failure struct {
	Kind disk.Kind `json:"kind"`
	Text string    `json:"text"`
	Hint string    `json:"hint,omitempty"`
	// Unstarted tells that the way to the guest is none here, and that nothing was done.
	Unstarted bool `json:"unstarted,omitempty"`
}

func failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	e := disk.AsError(err)
	return &failure{e.Kind, err.Error(), e.Hint, errors.As(err, &unstarted{})}
}

// An unstarted is the error of a way that did not even start.
type unstarted struct{ error }

func (u unstarted) Unwrap() error { return u.error }

// err is the error again, with its kind, text and hint.
func (f *failure) err() error {
	if f == nil {
		return nil
	}
	return disk.Hint(disk.Errorf(f.Kind, "%s", f.Text), "%s", f.Hint)
}
