// Command worker is a program with a Work that does what a test orders.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"chromogenic/cleaner/guest"
	"chromogenic/disk"
)

// A step is one thing to do.
type step struct {
	Do, Path, Text string
	N              int64
}

func main() {
	if guest.Child(work) {
		return
	}
	fmt.Fprintln(os.Stderr, "worker: it is for guest.Run")
	os.Exit(2)
}

func work(ctx context.Context, root *os.Root, facts guest.Facts, order []byte) ([]byte, error) {
	var steps []step
	if err := json.Unmarshal(order, &steps); err != nil {
		return nil, err
	}
	said := map[string]string{}
	for _, s := range steps {
		text, err := do(root, s)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", s.Do, s.Path, err)
		}
		said[s.Do+" "+s.Path] = text
	}
	return json.Marshal(said)
}

func do(root *os.Root, s step) (string, error) {
	switch s.Do {
	case "remove":
		return "", root.RemoveAll(s.Path)
	case "truncate":
		f, err := root.OpenFile(s.Path, os.O_WRONLY, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		return "", f.Truncate(s.N)
	case "write":
		return "", root.WriteFile(s.Path, []byte(s.Text), 0o640)
	case "chown":
		return "", root.Lchown(s.Path, int(s.N), int(s.N))
	case "read":
		text, err := root.ReadFile(s.Path)
		return string(text), err
	case "try": // what it comes to, an error or not
		text, err := root.ReadFile(s.Path)
		if err == nil {
			err = root.WriteFile(s.Path, text, 0)
		}
		return fmt.Sprint(err), nil
	case "list":
		f, err := root.Open(s.Path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		names, err := f.Readdirnames(-1)
		return strings.Join(names, " "), err
	case "stat":
		info, err := root.Lstat(s.Path)
		if err != nil {
			return "", err
		}
		return describe(info), nil
	case "host": // what a path outside of the guest comes to
		_, err := os.Stat(s.Path)
		return fmt.Sprint(err), nil
	case "id":
		return fmt.Sprintf("uid=%d pid=%d", os.Getuid(), os.Getpid()), nil
	case "reply":
		return strings.Repeat("x", int(s.N)), nil
	case "fail":
		return "", disk.Hint(disk.Errorf(disk.Policy, "%s", s.Text), "ask nicely")
	case "panic":
		panic(s.Text)
	case "exit":
		os.Exit(3)
	case "churn": // makes and removes links, so that the log goes round
		for i := range s.N {
			if i%100 == 0 {
				syscall.Sync()
			}
			if err := root.Symlink(strings.Repeat("t", 1000), fmt.Sprint(s.Path, i)); err != nil {
				return "", err
			}
		}
		for i := range s.N {
			if err := root.Remove(fmt.Sprint(s.Path, i)); err != nil {
				return "", err
			}
		}
		return "", nil
	case "reserve": // what is free by now may become a part of it
		syscall.Sync()
		f, err := root.Create(s.Path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		err = syscall.Fallocate(int(f.Fd()), 0, 0, s.N)
		if errors.Is(err, syscall.EOPNOTSUPP) {
			err = nil // ext2 and ext3 cannot
		}
		return "", err
	case "hang":
		time.Sleep(time.Hour)
	}
	return "", errors.New("no such step")
}
