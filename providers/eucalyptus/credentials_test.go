package eucalyptus

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chromogenic/disk"
)

// eucarc4 is what Eucalyptus 4 puts into the archive of credentials
// (X509Download.java of its source).
const eucarc4 = `EUCA_KEY_DIR=$(cd $(dirname ${BASH_SOURCE:-$0}); pwd -P)

export EC2_URL=https://compute.cloud.example.com:8773/
export S3_URL=https://objectstorage.cloud.example.com:8773/
export AWS_IAM_URL=https://euare.cloud.example.com:8773/
export EUSTORE_URL=http://emis.eucalyptus.com/
export EC2_PRIVATE_KEY=${EUCA_KEY_DIR}/euca2-admin-ac9f004a-pk.pem
export EC2_CERT=${EUCA_KEY_DIR}/euca2-admin-ac9f004a-cert.pem
export EC2_JVM_ARGS=-Djavax.net.ssl.trustStore=${EUCA_KEY_DIR}/jssecacerts
export EUCALYPTUS_CERT=${EUCA_KEY_DIR}/cloud-cert.pem
export EC2_ACCOUNT_NUMBER='876690818618'
export EC2_ACCESS_KEY='AKIEXAMPLE'
export EC2_SECRET_KEY='se/cr+et'
export AWS_ACCESS_KEY='AKIEXAMPLE'
export AWS_SECRET_KEY='se/cr+et'
export AWS_CREDENTIAL_FILE=${EUCA_KEY_DIR}/iamrc
export EC2_USER_ID='876690818618'
alias ec2-bundle-image="ec2-bundle-image --cert ${EC2_CERT} --privatekey ${EC2_PRIVATE_KEY} --user ${EC2_ACCOUNT_NUMBER} --ec2cert ${EUCALYPTUS_CERT}"
alias ec2-upload-bundle="ec2-upload-bundle -a ${EC2_ACCESS_KEY} -s ${EC2_SECRET_KEY} --url ${S3_URL}"
`

// eucarc3 is that of Eucalyptus 1 to 3: the folder is found otherwise, and the user has a
// number that is none of an account.
const eucarc3 = `EUCA_KEY_DIR=$(dirname $(readlink -f ${BASH_SOURCE}))
export S3_URL=http://192.0.2.10:8773/services/Walrus
export EC2_URL=http://192.0.2.10:8773/services/Eucalyptus
export EC2_PRIVATE_KEY=${EUCA_KEY_DIR}/euca2-admin-pk.pem
export EC2_CERT=${EUCA_KEY_DIR}/euca2-admin-cert.pem
export EUCALYPTUS_CERT=${EUCA_KEY_DIR}/cloud-cert.pem
export EC2_ACCESS_KEY='WKy3rMzOWPou'
export EC2_SECRET_KEY='4KYgRVgk'
# This is a bogus value; Eucalyptus does not need this but client tools do.
export EC2_USER_ID='42'
`

// novarc is the way of OpenStack's ec2rc.sh.
const novarc = `#!/bin/bash
NOVARC=$(readlink -f "${BASH_SOURCE:-${0}}" 2>/dev/null) || NOVARC=$(python -c 'import os,sys; print os.path.abspath(os.path.realpath(sys.argv[1]))' "${BASH_SOURCE:-${0}}")
NOVA_KEY_DIR=${NOVARC%/*}
export EC2_ACCESS_KEY=df7f93ec EC2_SECRET_KEY="ead2 fff9"
export EC2_URL=http://203.0.113.10:8773/services/Cloud; export S3_URL=http://203.0.113.10:3333
export EC2_PRIVATE_KEY=${NOVA_KEY_DIR}/pk.pem
export EUCALYPTUS_CERT=$NOVA_KEY_DIR/'cacert.pem' # a comment
`

// alone has no credentials but those that a test makes.
func alone(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("HOME", dir)
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		for _, prefix := range []string{"EC2_", "S3_", "AWS_", "EUCA"} {
			if strings.HasPrefix(name, prefix) {
				t.Setenv(name, "")
			}
		}
	}
	return dir
}

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEucarc(t *testing.T) {
	dir := alone(t)
	tests := map[string]struct {
		text string
		want credentials
	}{
		"4": {eucarc4, credentials{
			ec2URL: "https://compute.cloud.example.com:8773/", s3URL: "https://objectstorage.cloud.example.com:8773/",
			access: "AKIEXAMPLE", secret: "se/cr+et", account: "876690818618",
			key: dir + "/euca2-admin-ac9f004a-pk.pem", cert: dir + "/euca2-admin-ac9f004a-cert.pem", cloudCert: dir + "/cloud-cert.pem",
		}},
		"3": {eucarc3, credentials{
			ec2URL: "http://192.0.2.10:8773/services/Eucalyptus", s3URL: "http://192.0.2.10:8773/services/Walrus",
			access: "WKy3rMzOWPou", secret: "4KYgRVgk",
			key: dir + "/euca2-admin-pk.pem", cert: dir + "/euca2-admin-cert.pem", cloudCert: dir + "/cloud-cert.pem",
		}},
		"nova": {novarc, credentials{
			ec2URL: "http://203.0.113.10:8773/services/Cloud", s3URL: "http://203.0.113.10:3333",
			access: "df7f93ec", secret: "ead2 fff9", key: dir + "/pk.pem", cloudCert: dir + "/cacert.pem",
		}},
	}
	for name, tt := range tests {
		path := writeFile(t, filepath.Join(dir, "eucarc"), tt.text)
		c, err := readCredentials(Options{Eucarc: path})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		tt.want.source = "eucarc " + path
		if diff := cmp.Diff(tt.want, *c, cmp.AllowUnexported(credentials{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestEucarcNotExecuted gives what a shell would do: nothing of it happens.
func TestEucarcNotExecuted(t *testing.T) {
	dir := alone(t)
	trace := filepath.Join(dir, "trace")
	for _, command := range []string{"$(touch " + trace + "; echo k)", "`touch " + trace + "`", "${X:=$(touch " + trace + ")}", "\"a$(touch " + trace + ")b\""} {
		path := writeFile(t, filepath.Join(dir, "eucarc"), "touch "+trace+"\nexport EC2_URL=http://h/\nexport EC2_ACCESS_KEY=a\nexport EC2_SECRET_KEY="+command+"\n")
		_, err := readCredentials(Options{Eucarc: path})
		if disk.KindOf(err) != disk.Denied || !strings.Contains(err.Error(), "EC2_SECRET_KEY") {
			t.Errorf("%s: %v", command, err)
		}
		if _, err := os.Stat(trace); err == nil {
			t.Fatalf("%s was executed", command)
		}
	}
}

func TestEucarcRefused(t *testing.T) {
	dir := alone(t)
	tests := map[string]string{
		"EC2_URL":                       "export EC2_ACCESS_KEY=a\nexport EC2_SECRET_KEY=b\n",
		"EC2_ACCESS_KEY":                "export EC2_URL=http://h/\nexport EC2_SECRET_KEY=b\n",
		"EC2_SECRET_KEY":                "export EC2_URL=http://h/\nexport EC2_ACCESS_KEY=a\n",
		"line 2: a quote is not closed": "export EC2_URL=http://h/\nexport EC2_ACCESS_KEY='a\n",
		"is no URL of a service":        "export EC2_URL=cloud\nexport EC2_ACCESS_KEY=a\nexport EC2_SECRET_KEY=b\n",
		"at most":                       strings.Repeat("# comment\n", maxConfig/5),
	}
	for want, text := range tests {
		_, err := readCredentials(Options{Eucarc: writeFile(t, filepath.Join(dir, "eucarc"), text)})
		if disk.KindOf(err) != disk.Denied || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want Denied for %q", err, want)
		}
	}
	if _, err := readCredentials(Options{Eucarc: filepath.Join(dir, "none")}); disk.KindOf(err) != disk.Denied {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := readCredentials(Options{}); disk.KindOf(err) != disk.Denied || disk.AsError(err).Hint == "" {
		t.Errorf("without any: %v", err)
	}
}

const profiles = `; Eucalyptus
[global]
default-region = cloud-1

[region cloud-1]
ec2-url = https://compute.cloud-1:8773/
s3-url: https://objectstorage.cloud-1:8773/
certificate = ~/certs/cert-cloud-1.pem
user = admin
verify-ssl = no
ca-file = /etc/ca.pem ; a comment

[region *.example.com]
ec2-url = https://compute.example.com:8773/
user = other

[user admin]
key-id = AKIADMIN
secret-key = s;e=c:ret
account-id = 8766-9081-8618
private-key = ~/pk.pem
certificate = /etc/cert.pem

[user  other]
key-id = AKIOTHER
secret-key = other
`

func TestProfile(t *testing.T) {
	dir := alone(t)
	writeFile(t, filepath.Join(dir, ".euca", "a.ini"), profiles)
	writeFile(t, filepath.Join(dir, ".euca", "b.ini"), "[user other]\nsecret-key = newer\n")
	admin := credentials{
		ec2URL: "https://compute.cloud-1:8773/", s3URL: "https://objectstorage.cloud-1:8773/", access: "AKIADMIN", secret: "s;e=c:ret",
		account: "876690818618", key: dir + "/pk.pem", cert: "/etc/cert.pem", cloudCert: dir + "/certs/cert-cloud-1.pem", ca: "/etc/ca.pem",
		insecure: true, source: "user admin, region cloud-1 of the profiles of euca2ools",
	}
	other := credentials{
		ec2URL: "https://compute.example.com:8773/", access: "AKIOTHER", secret: "newer",
		source: "user other, region eu.example.com of the profiles of euca2ools",
	}
	mixed := admin
	mixed.access, mixed.secret, mixed.account, mixed.key, mixed.cert = "AKIOTHER", "newer", "", "", ""
	mixed.source = "user other, region cloud-1 of the profiles of euca2ools"
	for which, want := range map[string]credentials{"": admin, "cloud-1": admin, "admin@cloud-1": admin, "eu.example.com": other, "other@cloud-1": mixed} {
		c, err := readCredentials(Options{Profile: which})
		if err != nil {
			t.Errorf("%q: %v", which, err)
			continue
		}
		if diff := cmp.Diff(want, *c, cmp.AllowUnexported(credentials{})); diff != "" {
			t.Errorf("%q: %s", which, diff)
		}
	}
	for _, which := range []string{"nowhere", "nobody@cloud-1"} {
		if _, err := readCredentials(Options{Profile: which}); disk.KindOf(err) != disk.Denied || disk.AsError(err).Hint == "" {
			t.Errorf("%q: %v", which, err)
		}
	}
	for text, want := range map[string]string{"a = b\n": "line 1", "[user x\n": "line 1", "[user x]\nnothing\n": "line 2"} {
		writeFile(t, filepath.Join(dir, ".euca", "b.ini"), text)
		if _, err := readCredentials(Options{}); disk.KindOf(err) != disk.Denied || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestWhichCredentials tells which win, as euca2ools has it.
func TestWhichCredentials(t *testing.T) {
	dir := alone(t)
	source := func() string {
		t.Helper()
		c, err := readCredentials(Options{})
		if err != nil {
			t.Fatal(err)
		}
		return c.source
	}
	if Found() {
		t.Error("credentials are found where there are none")
	}
	rc := writeFile(t, filepath.Join(dir, ".euca", "eucarc"), eucarc4)
	if got := source(); got != "eucarc "+rc || !Found() {
		t.Errorf("source is %q", got)
	}
	before := stamp(Options{})
	writeFile(t, filepath.Join(dir, ".euca", "a.ini"), profiles)
	if got := source(); !strings.HasPrefix(got, "user admin") {
		t.Errorf("source is %q", got)
	}
	if stamp(Options{}) == before {
		t.Error("a new file of credentials is not seen")
	}
	t.Setenv("EC2_URL", "http://h/services/compute")
	t.Setenv("EC2_ACCESS_KEY", "a")
	t.Setenv("EC2_SECRET_KEY", "b")
	if got := source(); !strings.HasPrefix(got, "variables") {
		t.Errorf("source is %q", got)
	}
}

// TestSecretsStay looks for the secret key in what is said of credentials.
func TestSecretsStay(t *testing.T) {
	dir := alone(t)
	path := writeFile(t, filepath.Join(dir, "eucarc"), strings.ReplaceAll(eucarc4, "https://compute.cloud.example.com:8773/", "http://127.0.0.1:1/services/compute"))
	p, err := New(Options{Name: "euca", Eucarc: path, Retry: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = p.Credentials(t.Context())
	if err == nil || strings.Contains(err.Error()+disk.AsError(err).Hint+p.Location(), "se/cr+et") {
		t.Errorf("says %v", err)
	}
}

func FuzzEucarc(f *testing.F) {
	for _, text := range []string{eucarc4, eucarc3, novarc, "A=${A${A}}\nB=$(", "A=\\", "A='", "export\tA=1;B=2&&C=3"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		vars, err := parseEucarc("/home/user/.euca/eucarc", []byte(text))
		if err != nil && disk.KindOf(err) != disk.Denied {
			t.Errorf("%v is of kind %s", err, disk.KindOf(err))
		}
		for name, v := range vars {
			if identifier(name) != name || name == "" || len(v.text) > 2*maxConfig {
				t.Errorf("%q is %d bytes", name, len(v.text))
			}
		}
	})
}

func FuzzProfile(f *testing.F) {
	f.Add(profiles)
	f.Add("[a]\nb\n c")
	f.Add("[a]\n = c")
	f.Fuzz(func(t *testing.T, text string) {
		p := profile{}
		if err := p.parse("x.ini", []byte(text)); err != nil && disk.KindOf(err) != disk.Denied {
			t.Errorf("%v is of kind %s", err, disk.KindOf(err))
		}
		p.option("region", "a.b", "ec2-url")
	})
}
