package guest

import (
	"bufio"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"chromogenic/disk"
)

// subordinate finds the first range of ids that the administrator gave the user of
// this process: subuid(5), subgid(5).
func subordinate(file string) (first, n int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, 0, disk.Hint(fmt.Errorf("find ids for a sandbox: %w", err), "install the package uidmap, and have an administrator run usermod --add-subuids and --add-subgids for you")
	}
	defer f.Close()
	names := []string{strconv.Itoa(os.Getuid())}
	if u, err := user.Current(); err == nil {
		names = append(names, u.Username)
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		field := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(field) != 3 || field[0] != names[0] && field[0] != names[len(names)-1] {
			continue
		}
		first, err1 := strconv.ParseInt(field[1], 10, 64)
		n, err2 := strconv.ParseInt(field[2], 10, 64)
		if err1 == nil && err2 == nil && n > 0 {
			return first, n, nil
		}
	}
	return 0, 0, disk.Hint(disk.Errorf(disk.Denied, "find ids for a sandbox: %s has none for %s", file, names[len(names)-1]),
		"have an administrator run usermod --add-subuids and --add-subgids for you, or install the package user-mode-linux, which needs none")
}
