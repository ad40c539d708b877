package disk

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
)

// A patch is a file that holds what an overlay has in place of its base: a head, the
// size of the disk, a record for each run, with its bytes unless it is a hole, a record
// without any length, and the SHA-256 of all that. Numbers are little-endian.
const patchHead = "chromogenic patch 1\n"

// A patchRun is the head of a record.
type patchRun struct {
	Off, Len int64
	Zero     bool
}

// patchBuffer is how much of a patch is in memory at a time, in bytes.
const patchBuffer = 1 << 20

// Patchable is what a patch can be applied to.
type Patchable interface {
	io.WriterAt
	Discard(off, n int64) error
	Size() int64
}

// WritePatch writes the changes of an overlay to a file of that path, which is on the
// disk, and whole, when it appears, and gives the digest at its end in hex.
func WritePatch(path string, o *Overlay) (sum string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), PatchTemp+"*")
	if err != nil {
		return "", fmt.Errorf("write patch: %w", err)
	}
	defer os.Remove(f.Name()) // gone when it has its name
	h := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, h), patchBuffer)
	err = errors.Join(encodePatch(w, o), w.Flush())
	digest := h.Sum(nil)
	if err == nil {
		_, err = f.Write(digest)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("write patch: %w", err)
	}
	return hex.EncodeToString(digest), nil
}

// PatchTemp begins the names of patches that are being written.
const PatchTemp = ".patch-"

func encodePatch(w io.Writer, o *Overlay) error {
	if _, err := io.WriteString(w, patchHead); err != nil {
		return err
	}
	if err := binary.Write(w, binary.LittleEndian, o.Size()); err != nil {
		return err
	}
	buf := make([]byte, patchBuffer)
	for e := range o.Changes() {
		if err := binary.Write(w, binary.LittleEndian, patchRun(e)); err != nil {
			return err
		}
		for off := e.Off; off < e.End() && !e.Zero; {
			p := buf[:min(patchBuffer, e.End()-off)]
			if err := ReadFull(o, p, off); err != nil {
				return err
			}
			if _, err := w.Write(p); err != nil {
				return err
			}
			off += int64(len(p))
		}
	}
	return binary.Write(w, binary.LittleEndian, patchRun{})
}

// ApplyPatch makes the changes of a patch on a disk that is as the overlay's base was, and
// gives its digest. A patch that is damaged, or of a disk of another size, is Malformed,
// and changes nothing.
func ApplyPatch(path string, to Patchable) (sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read patch: %w", err)
	}
	defer f.Close()
	check := sha256.New()
	if sum, err = decodePatch(f, check, to.Size(), nil); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		_, err = decodePatch(f, sha256.New(), to.Size(), to)
	}
	if err != nil {
		return "", fmt.Errorf("read patch %q: %w", filepath.Base(path), err)
	}
	return sum, nil
}

// decodePatch reads a patch of a disk of a size, and makes its changes unless to is nil.
func decodePatch(from io.Reader, h hash.Hash, size int64, to Patchable) (sum string, err error) {
	file := bufio.NewReaderSize(from, patchBuffer)
	r := io.TeeReader(file, h)
	head, theirs := make([]byte, len(patchHead)), int64(0)
	if _, err := io.ReadFull(r, head); err != nil {
		return "", shortPatch(err)
	}
	if err := binary.Read(r, binary.LittleEndian, &theirs); err != nil {
		return "", shortPatch(err)
	}
	if string(head) != patchHead || theirs != size {
		return "", Errorf(Malformed, "it is no patch of a disk of %d bytes", size)
	}
	buf := make([]byte, patchBuffer)
	for {
		var run patchRun
		if err := binary.Read(r, binary.LittleEndian, &run); err != nil {
			return "", shortPatch(err)
		}
		switch {
		case run.Len == 0:
			digest := make([]byte, sha256.Size)
			if _, err := io.ReadFull(file, digest); err != nil {
				return "", shortPatch(err)
			}
			if string(digest) != string(h.Sum(nil)) {
				return "", Errorf(Malformed, "its digest is not that of its content")
			}
			return hex.EncodeToString(digest), nil
		case run.Off < 0 || run.Len < 0 || run.Off > size-run.Len:
			return "", Errorf(Malformed, "%d bytes at offset %d, of %d", run.Len, run.Off, size)
		case run.Zero && to != nil:
			err = to.Discard(run.Off, run.Len)
		case !run.Zero:
			err = patchData(r, buf, run, to)
		}
		if err != nil {
			return "", err
		}
	}
}

// patchData reads the bytes of a run.
func patchData(r io.Reader, buf []byte, run patchRun, to Patchable) error {
	for off := run.Off; off < run.Off+run.Len; {
		p := buf[:min(int64(len(buf)), run.Off+run.Len-off)]
		if _, err := io.ReadFull(r, p); err != nil {
			return shortPatch(err)
		}
		if to != nil {
			if _, err := to.WriteAt(p, off); err != nil {
				return err
			}
		}
		off += int64(len(p))
	}
	return nil
}

// shortPatch is the error of a patch that ends early.
func shortPatch(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Errorf(Malformed, "it ends early")
	}
	return err
}
