package ec2test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// S3rver is the version of s3rver that scripts/deps.sh installs.
const S3rver = "3.7.1"

// tools is where scripts/deps.sh puts what is not of Debian.
func tools() (string, error) {
	if dir := os.Getenv("CHROMOGENIC_TOOLS"); dir != "" {
		return dir, nil
	}
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "chromogenic", "tools"), err
}

// module is where s3rver is.
func module() (string, error) {
	dir, err := tools()
	return filepath.Join(dir, "s3rver-"+S3rver, "node_modules", "s3rver"), err
}

// script runs s3rver until its standard input ends: however its parent ends, it does too.
const script = `
const [module, directory] = process.argv.slice(1);
process.stdin.on('end', () => process.exit(0)).resume();
const options = {directory, address: '127.0.0.1', port: 0, silent: true, vhostBuckets: false};
new (require(module))(options).run().then(({address, port}) => console.log('listening on ' + address + ':' + port));
`

// Missing tells what there must be for a Cloud, and is not.
func Missing() error {
	if _, err := exec.LookPath("node"); err != nil {
		return errors.New("node is not installed")
	}
	path, err := module()
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("s3rver %s is not installed (scripts/deps.sh): %w", S3rver, err)
	}
	return nil
}

// An s3rver is one that runs.
type s3rver struct {
	cmd   *exec.Cmd
	stdin io.Closer
	url   string
	done  chan error
}

func startS3rver(dir string) (*s3rver, error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	path, err := module()
	if err != nil {
		return nil, err
	}
	s := &s3rver{cmd: exec.Command("node", "-e", script, path, dir), done: make(chan error, 1)}
	s.cmd.Stderr = os.Stderr
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	lines := make(chan string, 1)
	go func() {
		for in := bufio.NewScanner(out); in.Scan(); {
			if _, at, ok := strings.Cut(in.Text(), "listening on "); ok {
				lines <- at
			}
		}
		s.done <- s.cmd.Wait()
	}()
	select {
	case at := <-lines:
		s.url = "http://" + strings.TrimSpace(at)
		return s, nil
	case err := <-s.done:
		s.done <- err
		return nil, fmt.Errorf("s3rver ended: %w", err)
	case <-time.After(time.Minute):
		return nil, errors.Join(errors.New("s3rver does not begin to listen"), s.stop())
	}
}

// stop ends it.
func (s *s3rver) stop() error {
	_ = s.stdin.Close()
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.done
	return nil
}
