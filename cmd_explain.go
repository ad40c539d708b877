package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"chromogenic/disk"
	"chromogenic/fs"
)

func explainCommand() *cli.Command {
	return &cli.Command{
		Name:      "explain",
		Usage:     "say what an error means, and what to do about it",
		ArgsUsage: "[PATH|CODE]",
		Description: "A PATH is a file in a mount, there or not, or a directory, of which the newest failure\n" +
			"in it is told. A CODE is CHR-0012 or 12, an errno as EBADMSG, or a kind as malformed; a\n" +
			"file of such a name is ./NAME. Without an argument all codes are listed.",
		Flags: []cli.Flag{jsonFlag(), &cli.BoolFlag{Name: "markdown", Usage: "print all codes as docs/errors.md"}},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, 0, 1); err != nil {
				return err
			}
			if c.Bool("markdown") && (c.NArg() > 0 || c.Bool("json")) {
				return usage("say --markdown alone", "explain: --markdown prints all codes")
			}
			return explain(c)
		},
	}
}

func explain(c *cli.Context) error {
	w, arg := c.App.Writer, c.Args().First()
	switch {
	case c.Bool("markdown"):
		return printErrorsDoc(w)
	case c.NArg() == 0 && c.Bool("json"):
		return printJSON(w, errorCodes())
	case c.NArg() == 0:
		return printErrorCodes(w)
	case arg == "":
		return usage("say a file or a code", "explain: name is empty")
	}
	var x *explanation
	if e, ok := findCode(arg); ok {
		x = &explanation{errorCode: &e}
	} else {
		var err error
		if x, err = explainPath(arg); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return printJSON(w, x)
	}
	return x.print(w)
}

// An errorCode is a kind of error with all that stands for it.
type errorCode struct {
	Code   string `json:"code"`
	Kind   string `json:"kind"`
	Errno  string `json:"errno"`       // what the mount tells a program
	Exit   int    `json:"exit_status"` // of our commands
	Cause  string `json:"cause"`
	Remedy string `json:"remedy"`
}

// errorCodes are all there are, in the order of their numbers, from 0.
func errorCodes() []errorCode {
	var all []errorCode
	for _, k := range disk.Kinds() {
		err := disk.Errorf(k.Kind, "%s", k.Cause)
		all = append(all, errorCode{
			Code: k.Code, Kind: k.Name, Errno: unix.ErrnoName(fs.Errno(err)),
			Exit: exitStatus(context.Background(), err), Cause: k.Cause, Remedy: k.Remedy,
		})
	}
	return all
}

// findCode finds a code by itself, its number, its errno or its kind, in small
// letters or capitals.
func findCode(name string) (errorCode, bool) {
	name = strings.ToUpper(name)
	n, err := strconv.ParseUint(strings.TrimPrefix(name, "CHR-"), 10, 16)
	for i, e := range errorCodes() {
		if err == nil && n == uint64(i) || name == e.Errno || name == strings.ToUpper(e.Kind) {
			return e, true
		}
	}
	return errorCode{}, false
}

// An explanation is what is told of a code, or of the failure at a path.
type explanation struct {
	Path       string    `json:"path,omitempty"`
	Failure    string    `json:"failure,omitempty"` // operation, path below the mountpoint, message
	Time       time.Time `json:"time,omitzero"`     // where it is known
	Hint       string    `json:"hint,omitempty"`
	RequestID  string    `json:"request_id,omitempty"`
	*errorCode           // nil: no failure is recorded for the path
}

func (x *explanation) print(w io.Writer) error {
	if x.errorCode == nil {
		_, err := fmt.Fprintf(w, "no failure is recorded for %s\n", x.Path)
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(label, text string) {
		if text != "" {
			fmt.Fprintf(t, "%s\t%s\n", label, text)
		}
	}
	line("failure", x.Failure)
	if !x.Time.IsZero() {
		line("time", x.Time.Format(time.RFC3339))
	}
	line("hint", x.Hint)
	line("request id", x.RequestID)
	line("code", x.Code)
	line("kind", x.Kind)
	line("errno", x.Errno)
	line("exit status", strconv.Itoa(x.Exit))
	line("meaning", x.Cause)
	line("remedy", x.Remedy)
	return t.Flush()
}

// explainPath tells the failure that a mount has recorded for a path.
func explainPath(path string) (*explanation, error) {
	x, err := recorded(path)
	if err != nil {
		return nil, fmt.Errorf("explain %q: %w", path, err)
	}
	x.Path = path
	return x, nil
}

// recorded asks the file itself. What cannot be read is not there to be asked,
// and what was refused neither: of these the mount's journal knows.
func recorded(path string) (*explanation, error) {
	abs, err := fs.MountPath(path)
	if err != nil {
		return nil, err
	}
	mount, err := mountOf(abs)
	if err != nil {
		return nil, err
	}
	if mount == "" {
		if _, err := os.Lstat(abs); errors.Is(err, iofs.ErrNotExist) {
			err = disk.Errorf(disk.NotFound, "it is neither a file nor an error code")
			return nil, disk.Hint(err, "chromogenic explain lists the codes")
		}
		return nil, disk.Errorf(disk.Invalid, "it is in no mount of chromogenic, so no failure is recorded for it")
	}
	text := make([]byte, 1<<16) // xattr(7): the most that an attribute holds
	n, err := unix.Lgetxattr(abs, "user.chromogenic.error", text)
	switch {
	case err == nil:
		return parseFailure(string(text[:n])), nil
	case errors.Is(err, unix.ENODATA):
		return &explanation{}, nil
	case errors.Is(err, unix.ENOTCONN):
		err = disk.Errorf(disk.Unreachable, "the server of the mount at %q has died", mount)
		return nil, disk.Hint(err, "chromogenic umount %s, and mount it anew", mount)
	}
	below, relErr := filepath.Rel(mount, abs)
	if relErr != nil {
		return nil, relErr
	}
	journal, readErr := os.ReadFile(filepath.Join(mount, ".chromogenic", "errors"))
	if readErr != nil {
		return nil, readErr
	}
	if x := newest(journal, below); x != nil {
		return x, nil
	}
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, disk.Errorf(disk.NotFound, "there is no such file, and no failure is recorded for it")
	}
	return nil, err
}

// mountOf is the mountpoint of ours that path is in, empty if it is in none.
func mountOf(path string) (string, error) {
	for dir := path; ; dir = filepath.Dir(dir) {
		kind, err := fs.MountedAt(dir)
		switch {
		case err != nil:
			return "", err
		case strings.HasSuffix(kind, ".chromogenic"):
			return dir, nil
		case kind != "" || dir == filepath.Dir(dir):
			return "", nil
		}
	}
}

// parseFailure takes apart what the error attribute of a file holds:
//
//	CODE: operation path: message; hint: what to do; request id: the cloud's
func parseFailure(text string) *explanation {
	code, text, _ := strings.Cut(text, ": ")
	x := &explanation{Failure: text, errorCode: codeOf(code)}
	x.Failure, x.RequestID = cutLast(x.Failure, "; request id: ")
	x.Failure, x.Hint = cutLast(x.Failure, "; hint: ")
	return x
}

// cutLast parts s at the last sep; all of s is before one that is not there.
func cutLast(s, sep string) (before, after string) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):]
	}
	return s, ""
}

// newest finds the last failure of a path below the mountpoint in the lines of
// .chromogenic/errors; nil if there is none.
func newest(journal []byte, path string) *explanation {
	var x *explanation
	for line := range bytes.Lines(journal) {
		var f struct {
			Time      time.Time `json:"time"`
			Op        string    `json:"op"`
			Path      string    `json:"path"`
			Code      string    `json:"code"`
			Message   string    `json:"message"`
			RequestID string    `json:"request_id"`
			Hint      string    `json:"hint"`
		}
		if json.Unmarshal(line, &f) != nil || f.Path != path {
			continue
		}
		x = &explanation{
			Failure: fmt.Sprintf("%s %s: %s", f.Op, f.Path, f.Message), Time: f.Time,
			Hint: f.Hint, RequestID: f.RequestID, errorCode: codeOf(f.Code),
		}
	}
	return x
}

// codeOf explains the code of a mount, which may be of another version.
func codeOf(code string) *errorCode {
	e, ok := findCode(code)
	if !ok {
		e = errorCode{
			Code: code, Exit: exitFailed,
			Cause:  "the mount is of another version, which has codes that this one does not know",
			Remedy: "ask the chromogenic that has mounted it; .chromogenic/version tells which",
		}
	}
	return &e
}

func printErrorCodes(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CODE\tERRNO\tKIND\tEXIT\tMEANING")
	for _, e := range errorCodes() {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", e.Code, e.Errno, e.Kind, e.Exit, e.Cause)
	}
	return t.Flush()
}

const errorsDoc = `# Errors

Every failure has a code, which never changes its meaning. A program that uses the mount is told the errno; a command of ours prints the reason and ends with the exit status (0 is done, 2 a command line that makes no sense). The reason of a failure in a mount, with its code and often a hint, is told by

` + "```console" + `
$ chromogenic explain /mnt/chromo/local/images/broken.raw     # or of a directory: the newest failure in it
$ chromogenic explain EBADMSG                                 # or CHR-0012, or malformed
` + "```" + `

The table is printed by ` + "`chromogenic explain --markdown`" + ` from the one in ` + "`disk/kinds.go`" + `.

| code | errno | kind | exit status | cause | remedy |
|---|---|---|---|---|---|
`

// printErrorsDoc prints docs/errors.md.
func printErrorsDoc(w io.Writer) error {
	var b strings.Builder
	b.WriteString(errorsDoc)
	for _, e := range errorCodes() {
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %s | %s |\n", e.Code, e.Errno, e.Kind, e.Exit, e.Cause, e.Remedy)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
