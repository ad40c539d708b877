package eucalyptus

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"chromogenic/disk"
	"chromogenic/providers/internal/bundle"
	"chromogenic/providers/internal/crypt"
)

// A journal is what is known of a bundle on its way: where its objects are, and what they
// are encrypted with, so that another process goes on with it or removes it. It is a file
// that only its owner reads, and locked as long as somebody works on it: the kernel takes
// the lock from a process that is killed.
type journal struct {
	Schema int    `json:"schema"`
	Job    string `json:"job"`
	Name   string `json:"name"` // of the image
	Role   string `json:"role,omitempty"`
	Size   int64  `json:"size"` // of the disk, bytes; -1 for a capture
	Bucket string `json:"bucket"`
	Folder string `json:"folder,omitempty"` // of an upload: that all keys begin with, which ends in a slash
	Bundle string `json:"bundle"`           // the name of the bundle
	Task   string `json:"task,omitempty"`   // of a capture: the cloud's task
	Key    string `json:"key,omitempty"`    // of the content, hex
	IV     string `json:"iv,omitempty"`     // hex

	token string
	path  string
	file  *os.File
}

const (
	journalSchema = 1
	journalEnd    = ".journal"
	maxJournal    = 64 << 10 // bytes
)

// newJournal writes a new one. Its file is there, complete, before anything is made.
func (p *Provider) newJournal(s *session, job, image string, size int64) (*journal, error) {
	if p.o.Dir == "" {
		return nil, disk.Hint(disk.Errorf(disk.Invalid, "the provider has no folder for the state of what is half made"), "give it one: the state directory has room for it")
	}
	id := make([]byte, 8)
	rand.Read(id) // never fails
	token := hex.EncodeToString(id)
	name, folder := safeName(image), safeName(image)+"-"+token+"/"
	if size < 0 { // the cloud has no folders for what it bundles
		name, folder = safeName(image)+"-"+token, ""
	}
	secret := crypt.AES128CBC{}.NewSecret()
	j := &journal{
		Schema: journalSchema, Job: job, Name: image, Size: size, Bucket: p.bucketName(s), Folder: folder, Bundle: name,
		Key: hex.EncodeToString(secret.Key), IV: hex.EncodeToString(secret.IV), token: token, path: p.journalPath(token),
	}
	if err := os.MkdirAll(p.o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("write journal: %w", err)
	}
	f, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write journal: %w", err)
	}
	j.file = f
	if err := j.lock(); err != nil {
		return nil, errors.Join(err, j.remove())
	}
	if err := j.write(); err != nil {
		return nil, errors.Join(err, j.remove())
	}
	return j, nil
}

// bucketName is that of the bucket that all of this account goes to.
func (p *Provider) bucketName(s *session) string {
	return cmp.Or(p.o.Bucket, mark+"-"+s.account)
}

func (p *Provider) journalPath(token string) string { return filepath.Join(p.o.Dir, token+journalEnd) }

// lock fails with Busy where another has it.
func (j *journal) lock() error {
	err := syscall.Flock(int(j.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return disk.Errorf(disk.Busy, "somebody else works on it")
	}
	if err != nil {
		return fmt.Errorf("lock journal: %w", err)
	}
	return nil
}

// write makes the file durable.
func (j *journal) write() error {
	text, err := json.Marshal(j)
	if err == nil {
		_, err = j.file.WriteAt(text, 0)
	}
	if err == nil {
		err = j.file.Truncate(int64(len(text)))
	}
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// journal opens the one of a token and locks it. NotFound is one that is gone.
func (p *Provider) journal(token string) (*journal, error) {
	if b, err := hex.DecodeString(token); err != nil || len(b) != 8 || p.o.Dir == "" {
		return nil, disk.Errorf(disk.NotFound, "there is no upload %.40q", token)
	}
	path := p.journalPath(token)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, disk.Errorf(disk.NotFound, "upload %s is gone", token)
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	j := &journal{token: token, path: path, file: f}
	if err := j.read(); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

func (j *journal) read() error {
	if err := j.lock(); err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(j.file, maxJournal))
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	if err := json.Unmarshal(text, j); err != nil || j.Schema != journalSchema {
		return disk.Errorf(disk.Malformed, "read journal %s: it is none of this program: %w", j.path, err)
	}
	if j.Bucket == "" || !strings.Contains(j.area().key, "-"+j.token) { // all of it is removed
		return disk.Errorf(disk.Malformed, "read journal %s: it names no place of its own", j.path)
	}
	if _, err := os.Stat(j.path); err != nil { // it was removed before it was locked
		return disk.Errorf(disk.NotFound, "upload %s is gone", j.token)
	}
	return nil
}

// journals are the tokens of all.
func (p *Provider) journals() ([]string, error) {
	if p.o.Dir == "" {
		return nil, nil
	}
	files, err := os.ReadDir(p.o.Dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journals: %w", err)
	}
	var tokens []string
	for _, f := range files {
		if token, ok := strings.CutSuffix(f.Name(), journalEnd); ok {
			tokens = append(tokens, token)
		}
	}
	return tokens, nil
}

// secret is what the bundle is encrypted with.
func (j *journal) secret() (s crypt.Secret, err error) {
	if s.Key, err = hex.DecodeString(j.Key); err == nil {
		s.IV, err = hex.DecodeString(j.IV)
	}
	if err != nil {
		return s, disk.Errorf(disk.Malformed, "read journal %s: it has no key", j.path)
	}
	return s, nil
}

// manifest is the object of the manifest.
func (j *journal) manifest() place { return j.object(j.Bundle + bundle.ManifestSuffix) }

// area is what all keys begin with, and no others.
func (j *journal) area() place {
	if j.Folder != "" {
		return place{j.Bucket, j.Folder}
	}
	return place{j.Bucket, j.Bundle + "."}
}

func (j *journal) object(name string) place { return place{j.Bucket, j.Folder + name} }

// close lets go of it, and leaves it.
func (j *journal) close() { j.file.Close() }

// remove ends it.
func (j *journal) remove() error {
	err := os.Remove(j.path)
	j.close()
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	return err
}

// undo removes all that was made: images that are registered from its bundle and not
// committed, the objects, the journal. An image that is committed keeps all but the journal.
// What cannot be removed is found by the journal, which stays then.
func (p *Provider) undo(ctx context.Context, j *journal) error {
	s, err := p.session(ctx)
	if err != nil {
		return err
	}
	all, err := p.ownRecords(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if at, err := r.bundle(); err != nil || at != j.manifest() {
			continue
		}
		if state, _, _ := r.state(); state != stateCommit {
			return j.remove()
		}
		if err := s.ec2.Deregister(ctx, r.ID); err != nil && disk.KindOf(err) != disk.NotFound {
			return err
		}
		p.own(r.ID, false)
	}
	if err := s.store.clear(ctx, j.area()); err != nil {
		return err
	}
	return j.remove()
}
