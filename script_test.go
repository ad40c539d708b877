package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"chromogenic/cleaner"
	"chromogenic/cleaner/guest"
	"golang.org/x/sys/unix"

	"chromogenic/fs"
)

// The scripts run this test binary as chromogenic.
func TestMain(m *testing.M) {
	if guest.Child(cleaner.Serve) {
		return
	}
	testscript.Main(m, map[string]func(){"chromogenic": main})
}

// TestScript runs testdata/script. Those that mount are called mount-*.txt.
func TestScript(t *testing.T) {
	need(t, "qemu-img", "cmp")
	runScripts(t, func(name string) bool { return !strings.HasPrefix(name, "mount-") })
}

func TestScriptMount(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts")
	}
	need(t, "qemu-img", "cmp", "rsync")
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err == nil {
		f.Close()
	} else if os.Getenv("CI") != "" {
		t.Fatalf("%v; CI must have FUSE", err)
	} else {
		t.Skipf("!!!!! NOT TESTED: %v", err)
	}
	if os.Getuid() != 0 {
		need(t, "fusermount3")
	}
	runScripts(t, func(name string) bool { return strings.HasPrefix(name, "mount-") })
}

func runScripts(t *testing.T, want func(name string) bool) {
	all, err := filepath.Glob("testdata/script/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, file := range all {
		if want(filepath.Base(file)) {
			files = append(files, file)
		}
	}
	if len(files) == 0 {
		t.Fatal("no scripts")
	}
	testscript.Run(t, testscript.Params{
		Files: files,
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
			env.Setenv("CHROMOGENIC_CONFIG", "")
			env.Setenv("CHROMOGENIC_STATE_DIR", filepath.Join(env.WorkDir, "state"))
			return os.MkdirAll(home, 0o755)
		},
		Condition: func(name string) (bool, error) {
			if name != "configured" { // this machine has a configuration of its own
				return false, fmt.Errorf("unknown condition %q", name)
			}
			_, err := os.Stat("/etc/chromogenic/config.yaml")
			return err == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":    cmdStatus,
			"pattern":   cmdPattern,
			"sparse":    cmdSparse,
			"unmounted": cmdUnmounted,
			"live":      cmdLive,
			"signal":    cmdSignal,
			"waitlog":   cmdWaitLog,
			"jobid":     cmdJobID,
		},
	})
}

// status N PROGRAM ARG... runs a program that must end with exit status N.
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := err.(*exec.ExitError); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("run %q: %v", args[1:], err)
	}
	if got != want {
		ts.Fatalf("%q: exit status %d, want %d", args[1:], got, want)
	}
}

// pattern FILE SIZE [OFF LEN]... makes a sparse file of SIZE bytes. Every run of
// data holds its own offsets, in words of 8 bytes.
func cmdPattern(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args)%2 != 0 {
		ts.Fatalf("usage: pattern FILE SIZE [OFF LEN]...")
	}
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	number := func(s string) int64 {
		n, err := parseSize(s)
		ts.Check(err)
		return n
	}
	ts.Check(f.Truncate(number(args[1])))
	for i := 2; i < len(args); i += 2 {
		off, n := number(args[i]), number(args[i+1])
		p := make([]byte, n)
		for at := int64(0); at+8 <= n; at += 8 {
			copy(p[at:], fmt.Sprintf("%08x", (off+at)/8))
		}
		_, err := f.WriteAt(p, off)
		ts.Check(err)
	}
	ts.Check(f.Sync()) // delayed allocation settles what is a hole
}

// sparse FILE MAX fails when the file takes more than MAX bytes.
func cmdSparse(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: sparse FILE MAX")
	}
	limit, err := parseSize(args[1])
	ts.Check(err)
	var st unix.Stat_t
	ts.Check(unix.Stat(ts.MkAbs(args[0]), &st))
	if st.Blocks*512 > limit { // stat(2): of 512 bytes each
		ts.Fatalf("%s takes %d bytes, at most %d are allowed", args[0], st.Blocks*512, limit)
	}
}

// soon asks until the answer is yes.
func soon(ts *testscript.TestScript, what string, done func() bool) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if done() {
			return
		}
	}
	ts.Fatalf("after 10 s still not so: %s", what)
}

// unmounted DIR waits until nothing is mounted there.
func cmdUnmounted(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	soon(ts, dir+" is unmounted", func() bool {
		kind, err := fs.MountedAt(dir)
		return err == nil && kind == ""
	})
}

// live DIR waits until a mount answers.
func cmdLive(ts *testscript.TestScript, _ bool, args []string) {
	file := filepath.Join(ts.MkAbs(args[0]), ".chromogenic", "version")
	soon(ts, args[0]+" is live", func() bool {
		_, err := os.ReadFile(file)
		return err == nil
	})
}

// waitlog FILE TEXT waits until the text is in the file.
func cmdWaitLog(ts *testscript.TestScript, _ bool, args []string) {
	soon(ts, args[1]+" is in "+args[0], func() bool {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		return err == nil && strings.Contains(string(text), args[1])
	})
}

// signal NAME COMMAND sends a signal to a background command.
func cmdSignal(ts *testscript.TestScript, _ bool, args []string) {
	for _, c := range ts.BackgroundCmds() {
		if strings.Contains(strings.Join(c.Args, " "), args[1]) {
			ts.Check(c.Process.Signal(unix.SignalNum("SIG" + args[0])))
			return
		}
	}
	ts.Fatalf("no background command has %q in it", args[1])
}

// jobid sets JOB to the id of the job that the last command has spoken of, and
// SHORT to its end.
func cmdJobID(ts *testscript.TestScript, _ bool, _ []string) {
	id := regexp.MustCompile(`[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}`).FindString(ts.ReadFile("stdout"))
	if id == "" {
		ts.Fatalf("the last command tells of no job")
	}
	ts.Setenv("JOB", id)
	ts.Setenv("SHORT", id[len(id)-6:])
}
