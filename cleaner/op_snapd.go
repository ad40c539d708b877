package cleaner

import (
	"encoding/json"

	"chromogenic/disk"
)

// snapd removes the identity of the machine at the store of snaps, and the logins of
// its users. What is installed stays: snapd registers anew.
func snapd(g *Guest) error {
	if err := g.remove("/var/lib/snapd/device/private-keys-v1/*", "/var/lib/snapd/assertions/asserts-v0/serial*", "/var/lib/snapd/assertions/asserts-v0/account-key/*/*/local", "/var/lib/snapd/auth.json", "/var/lib/snapd/snapshots/*", "/var/lib/snapd/cookie/*", "/var/lib/snapd/errtracker.db", "/var/lib/snapd/cache/*", "/var/lib/snapd/save/device"); err != nil {
		return err
	}
	const state = "/var/lib/snapd/state.json"
	var broken error
	_, err := g.edit(state, func(text []byte) []byte {
		left, err := dropAuth(text)
		if err != nil {
			broken = pathError(state, disk.Errorf(disk.Malformed, "parse state of snapd: %w", err))
			return text
		}
		return left
	})
	if err == nil {
		err = broken
	}
	return err
}

// dropAuth takes "auth" and the cookies of snaps out of the "data" of snapd's state. All
// else keeps its bytes; of the order of names JSON says nothing.
func dropAuth(text []byte) ([]byte, error) {
	var state, data map[string]json.RawMessage
	if err := json.Unmarshal(text, &state); err != nil {
		return nil, err
	}
	if len(state["data"]) == 0 {
		return text, nil
	}
	if err := json.Unmarshal(state["data"], &data); err != nil {
		return nil, err
	}
	if data["auth"] == nil && data["snap-cookies"] == nil {
		return text, nil
	}
	delete(data, "auth")
	delete(data, "snap-cookies")
	var err error
	if state["data"], err = json.Marshal(data); err != nil {
		return nil, err
	}
	return json.Marshal(state)
}
