package cleaner

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
)

// secretName is how a setting that holds a secret is called.
const secretName = `[\w.-]*(?:password|passwd|passphrase|secret|token|authtok|api[_-]?key|access[_-]?key|private[_-]?key|account[_-]?key|license[_-]?key|shared[_-]?key|psk|credential|dbpass|[_-]pass\b|[_-]pwd\b)[\w.-]*`

var (
	// secretSetting is a line that gives such a setting a value: NAME=value of shells
	// and ini files, "name": "value" of YAML and JSON, name = "value" of TOML and HCL. A
	// value that begins with a slash is a path, one with $ is found elsewhere.
	secretSetting = regexp.MustCompile(`(?im)^([ \t]*(?:export[ \t]+|set(?:env)?[ \t]+|-[ \t]+)?["']?)(` + secretName + `)(["']?[ \t]*[:=][ \t]*)("[^"\n$/][^"\n]*"|'[^'\n$/][^'\n]*'|[^\s"'/${#<(|>&;][^\r\n]*?)(,?[ \t]*\r?)$`)
	// secretInner is the same within the braces of a line of YAML or JSON.
	secretInner = regexp.MustCompile(`(?i)([{,][ \t]*["']?)(` + secretName + `)(["']?[ \t]*:[ \t]*)("[^"\n]+"|'[^'\n]+'|[^\s"'/${,}]+)()`)
	// secretURL is a URL with a password in it.
	secretURL = regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)[^\s/:@"']*:[^\s/@"']+@`)
	// secretVariable is one of a unit, systemd.exec(5). A line can have several.
	secretVariable = regexp.MustCompile(`(?im)^([ \t]*Environment=(?:.*[ \t"'])?` + secretName + `=)([^\s"'/$]+)`)
)

// noSecrets are endings of names whose values say something about a secret, and
// valueless values, which are not secrets but switches.
var (
	noSecrets  = []string{"file", "path", "dir", "type", "ttl", "timeout", "command", "cmd", "policy", "authentication", "url", "endpoint", "length", "enabled", "method", "expire", "helper", "store", "_min", "_max"}
	noValue    = regexp.MustCompile(`(?i)^(|yes|no|on|off|true|false|none|null|ask|prompt|\d{1,3})$`)
	placedName = regexp.MustCompile(`(?i)^lock_passwd$`) // of cloud-init: whether, not which
)

// blankSecrets takes the values of secrets out of a text of settings. The names stay,
// and with them the form of the file.
func blankSecrets(text []byte) []byte {
	text = blankValues(secretSetting, text)
	text = blankValues(secretInner, text)
	return secretURL.ReplaceAll(text, []byte(`${1}`))
}

func blankValues(re *regexp.Regexp, text []byte) []byte {
	return re.ReplaceAllFunc(text, func(line []byte) []byte {
		m := re.FindSubmatch(line)
		if !secretValue(string(m[2]), string(m[4])) {
			return line
		}
		value := ""
		if q := m[4][0]; q == '"' || q == '\'' || re == secretInner {
			value = `""`
		}
		return bytes.Join([][]byte{m[1], m[2], m[3], []byte(value), m[5]}, nil)
	})
}

// secretValue tells whether a value is the secret that its name speaks of.
func secretValue(name, value string) bool {
	name = strings.ToLower(name)
	if placedName.MatchString(name) || slices.ContainsFunc(noSecrets, func(end string) bool { return strings.HasSuffix(name, end) }) {
		return false
	}
	return !noValue.MatchString(strings.Trim(value, `"'`))
}

// blankVariables takes the values of secrets out of a unit of systemd.
func blankVariables(text []byte) []byte {
	for { // of several in a line one goes at a time
		next := secretVariable.ReplaceAll(text, []byte(`${1}`))
		if bytes.Equal(next, text) {
			return secretURL.ReplaceAll(text, []byte(`${1}`))
		}
		text = next
	}
}

// encryptKey is the key with which a cluster of HashiCorp's services gossips.
var encryptKey = regexp.MustCompile(`(?m)(["']?\bencrypt["']?[ \t]*[:=][ \t]*)"[^"\n]+"`)

func blankEncrypt(text []byte) []byte { return encryptKey.ReplaceAll(text, []byte(`${1}""`)) }
