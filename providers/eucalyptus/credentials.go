package eucalyptus

import (
	"cmp"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"chromogenic/disk"
	"chromogenic/providers/internal/crypt"
)

// credentials are what a cloud is asked with, and where they come from. The files of keys
// are read when they are needed.
type credentials struct {
	ec2URL, s3URL         string
	access, secret, token string
	account               string // the number; empty where the cloud has to be asked

	key, cert string // files of the user: a private key, its certificate
	cloudCert string // file of the certificate that bundles are sealed with for the cloud
	cloudKey  string // file of its private key, which its administrator may have

	ca       string // file of authorities, besides those of the system
	insecure bool
	sigv2    bool

	source string // for people: which file or variables
}

// readCredentials reads them anew: of the eucarc or the profile that is named. Where none
// is, those win that euca2ools would take: the variables of a eucarc that was sourced, the
// default region of its profiles, and then a eucarc in the folder ~/.euca.
func readCredentials(o Options) (*credentials, error) {
	c, err := chooseCredentials(o)
	if err != nil {
		return nil, err
	}
	c.sigv2 = c.sigv2 || o.SigV2
	c.ca = cmp.Or(c.ca, os.Getenv("AWS_CA_BUNDLE"))
	return c, c.check()
}

func chooseCredentials(o Options) (*credentials, error) {
	switch {
	case o.Eucarc != "":
		return fromEucarc(expandHome(o.Eucarc))
	case o.Profile != "":
		return fromProfile(o.Profile)
	case os.Getenv("EC2_URL") != "":
		return fromVariables(func(name string) (string, error) { return os.Getenv(name), nil }, "variables EC2_* of the environment")
	}
	files := iniFiles()
	p, err := readProfile(files)
	if err != nil {
		return nil, err
	}
	if p.defaultRegion() != "" {
		return fromProfile("")
	}
	for _, path := range eucarcPaths() {
		if _, err := os.Stat(path); err == nil {
			return fromEucarc(path)
		}
	}
	err = disk.Errorf(disk.Denied, "find credentials: there is no eucarc, no default-region in %s, and EC2_URL is not set", filepath.Join(home(), ".euca", "*.ini"))
	return nil, disk.Hint(err, "name the eucarc of your account (key eucarc), or a user and region of ~/.euca/*.ini (key profile: USER@REGION)")
}

// eucarcPaths are where a eucarc may be that nobody has named.
func eucarcPaths() []string {
	return []string{filepath.Join(home(), ".euca", "eucarc"), filepath.Join(home(), ".eucarc"), "/etc/euca2ools/eucarc"}
}

// Found tells whether there are credentials that a Provider of the zero Options would use.
func Found() bool {
	_, err := chooseCredentials(Options{})
	return err == nil
}

// readConfig reads a file of credentials.
func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, unreadable(err)
	}
	return text, nil
}

// unreadable is the error of a file of credentials. It is Denied: that one is not there
// does not mean that an image is gone.
func unreadable(err error) error {
	return disk.Errorf(disk.Denied, "read credentials: %w", err)
}

func fromEucarc(path string) (*credentials, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, unreadable(err)
	}
	text, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	vars, err := parseEucarc(path, text)
	if err != nil {
		return nil, err
	}
	c, err := fromVariables(func(name string) (string, error) {
		v := vars[name]
		if v.why != "" {
			return "", disk.Errorf(disk.Denied, "read credentials: %s of %s is not known: %s", name, path, v.why)
		}
		return v.text, nil
	}, "eucarc "+path)
	if err != nil {
		return nil, err
	}
	for _, file := range []*string{&c.key, &c.cert, &c.cloudCert} {
		if *file != "" && !filepath.IsAbs(*file) {
			*file = filepath.Join(filepath.Dir(path), *file)
		}
	}
	return c, nil
}

// Anchor makes the paths of credentials that the environment names absolute, for a process
// that is about to leave its working directory.
func Anchor() error {
	for _, key := range []string{"EC2_PRIVATE_KEY", "EC2_CERT", "EUCALYPTUS_CERT", "AWS_CA_BUNDLE"} {
		path := os.Getenv(key)
		if path == "" || filepath.IsAbs(path) {
			continue
		}
		path, err := filepath.Abs(path)
		if err == nil {
			err = os.Setenv(key, path)
		}
		if err != nil {
			return fmt.Errorf("find credentials of %s: %w", key, err)
		}
	}
	return nil
}

// fromVariables takes the variables of a eucarc, by the names of Eucalyptus 3 and 4 and
// those of older ones.
func fromVariables(get func(name string) (string, error), source string) (*credentials, error) {
	c := &credentials{source: source}
	for _, v := range []struct {
		to    *string
		names []string
	}{
		{&c.ec2URL, []string{"EC2_URL"}},
		{&c.s3URL, []string{"S3_URL"}},
		{&c.access, []string{"EC2_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"}},
		{&c.secret, []string{"EC2_SECRET_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"}},
		{&c.token, []string{"AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"}},
		{&c.account, []string{"EC2_ACCOUNT_NUMBER", "EC2_USER_ID"}},
		{&c.key, []string{"EC2_PRIVATE_KEY"}},
		{&c.cert, []string{"EC2_CERT"}},
		{&c.cloudCert, []string{"EUCALYPTUS_CERT"}},
	} {
		for _, name := range v.names {
			text, err := get(name)
			if err != nil {
				return nil, err
			}
			if *v.to == "" {
				*v.to = strings.TrimSpace(text)
			}
		}
	}
	if !isAccount(c.account) { // in old files EC2_USER_ID is that of a user
		c.account = ""
	}
	return c, nil
}

// isAccount tells whether a text is the number of an account: 12 digits.
func isAccount(s string) bool {
	return len(s) == 12 && strings.Trim(s, "0123456789") == ""
}

// defaultRegion is the region that euca2ools takes where none is named.
func (p profile) defaultRegion() string {
	return cmp.Or(os.Getenv("AWS_DEFAULT_REGION"), p["global"]["default-region"])
}

// fromProfile takes USER@REGION, or REGION, or nothing for the default, of the profiles.
func fromProfile(which string) (*credentials, error) {
	p, err := readProfile(iniFiles())
	if err != nil {
		return nil, err
	}
	user, region, named := strings.Cut(which, "@")
	if !named {
		user, region = "", which
	}
	region = cmp.Or(region, p.defaultRegion())
	of := func(key string) string { return p.option("region", region, key) }
	if of("ec2-url") == "" {
		err := disk.Errorf(disk.Denied, "find credentials: the profiles of euca2ools have no region %q with an ec2-url", region)
		return nil, disk.Hint(err, "they have %s", cmp.Or(strings.Join(p.names("region"), ", "), "none"))
	}
	user = cmp.Or(user, of("user"))
	mine := func(key string) string { return p.option("user", user, key) }
	if mine("key-id") == "" {
		err := disk.Errorf(disk.Denied, "find credentials: the profiles of euca2ools have no user %q with a key-id", user)
		return nil, disk.Hint(err, "they have %s", cmp.Or(strings.Join(p.names("user"), ", "), "none"))
	}
	verify, err := strconv.ParseBool(yesNo(cmp.Or(of("verify-ssl"), "true")))
	if err != nil {
		return nil, disk.Errorf(disk.Denied, "read credentials: verify-ssl of region %s is %q, neither true nor false", region, of("verify-ssl"))
	}
	return &credentials{
		ec2URL: of("ec2-url"), s3URL: of("s3-url"),
		access: mine("key-id"), secret: mine("secret-key"), token: mine("security-token"),
		account: strings.ReplaceAll(mine("account-id"), "-", ""),
		key:     expandHome(mine("private-key")), cert: expandHome(mine("certificate")), cloudCert: expandHome(of("certificate")),
		ca: expandHome(of("ca-file")), insecure: !verify, sigv2: of("signature-version") == "2",
		source: fmt.Sprintf("user %s, region %s of the profiles of euca2ools", user, region),
	}, nil
}

// yesNo makes of the words of ConfigParser those of Go.
func yesNo(s string) string {
	switch strings.ToLower(s) {
	case "yes", "on":
		return "true"
	case "no", "off":
		return "false"
	}
	return strings.ToLower(s)
}

// check refuses credentials with which nothing can be asked.
func (c *credentials) check() error {
	for _, v := range []struct{ text, what string }{{c.ec2URL, "EC2_URL (ec2-url)"}, {c.access, "EC2_ACCESS_KEY (key-id)"}, {c.secret, "EC2_SECRET_KEY (secret-key)"}} {
		if v.text == "" {
			return disk.Errorf(disk.Denied, "find credentials: %s says no %s", c.source, v.what)
		}
	}
	for _, address := range []string{c.ec2URL, c.s3URL} {
		if u, err := url.Parse(address); address != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			return disk.Errorf(disk.Denied, "find credentials: %s has %q, which is no URL of a service", c.source, address)
		}
	}
	return nil
}

// tls is the configuration of connections. The certificate of the cloud, EUCALYPTUS_CERT,
// is no authority: bundles are sealed with it.
func (c *credentials) tls() (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: c.insecure} //nolint:gosec // the owner of the cloud says so
	if c.ca == "" {
		return config, nil
	}
	pem, err := os.ReadFile(c.ca)
	if err != nil {
		return nil, disk.Errorf(disk.Denied, "read CA file: %w", err)
	}
	if config.RootCAs, err = x509.SystemCertPool(); err != nil {
		config.RootCAs = x509.NewCertPool()
	}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, disk.Errorf(disk.Invalid, "read CA file %q: it has no certificate", c.ca)
	}
	return config, nil
}

// cloudKeys are where the cloud's private key may be: beside its certificate, and where
// Eucalyptus keeps it.
func (c *credentials) cloudKeys() []string {
	var files []string
	if c.cloudKey != "" {
		files = append(files, c.cloudKey)
	}
	if c.cloudCert != "" {
		files = append(files, filepath.Join(filepath.Dir(c.cloudCert), "cloud-pk.pem"))
	}
	return append(files, "/var/lib/eucalyptus/keys/cloud-pk.pem")
}

// readingKeys are the private keys that are at hand, and where they were looked for. A
// file that is there and cannot be used is an error of the user's key alone.
func (c *credentials) readingKeys() (keys []*rsa.PrivateKey, looked []string, err error) {
	if c.key != "" {
		looked = append(looked, c.key)
		key, err := readKey(c.key, crypt.ParsePrivateKey)
		if err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return nil, looked, err
		}
		if err == nil {
			keys = append(keys, key)
		}
	}
	for _, file := range c.cloudKeys() {
		looked = append(looked, file)
		if key, err := readKey(file, crypt.ParsePrivateKey); err == nil {
			keys = append(keys, key)
		}
	}
	return keys, looked, nil
}

// readKey reads a file of a key or a certificate.
func readKey[K any](file string, parse func([]byte) (K, error)) (key K, err error) {
	text, err := os.ReadFile(file)
	if err == nil {
		key, err = parse(text)
	}
	if err != nil {
		return key, disk.Hint(&disk.Error{Kind: disk.Denied, Err: fmt.Errorf("read key %s: %w", file, err)},
			"the credentials name this file: it came with the eucarc of the account")
	}
	return key, nil
}

// stamp tells the files of credentials from those that were read before: paths, sizes and
// times. Variables of the environment do not change.
func stamp(o Options) string {
	files := append(iniFiles(), eucarcPaths()...)
	if o.Eucarc != "" {
		files = []string{expandHome(o.Eucarc)}
	}
	var b strings.Builder
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			fmt.Fprintln(&b, file, info.Size(), info.ModTime().UnixNano())
		}
	}
	return b.String()
}
