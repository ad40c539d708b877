package openstack

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"go.yaml.in/yaml/v3"

	"chromogenic/disk"
)

// credentials are what a login needs, and where they come from.
type credentials struct {
	auth      gophercloud.AuthOptions
	endpoints gophercloud.EndpointOpts
	tls       *tls.Config
	override  map[string]string // of a service's type: the URL of its endpoint, in place of the catalog's
	source    string            // for people: which file or variables
}

// readCredentials reads them anew, as the openstack command does: the cloud of
// clouds.yaml that is named, or OS_CLOUD names; without any name the variables OS_*.
func readCredentials(cloud, region string) (*credentials, error) {
	cloud = cmp.Or(cloud, os.Getenv("OS_CLOUD"))
	var c *credentials
	var err error
	if cloud == "" {
		c, err = fromEnvironment()
	} else {
		c, err = fromFile(cloud)
	}
	if err != nil {
		return nil, err
	}
	c.endpoints.Region = cmp.Or(region, c.endpoints.Region)
	c.auth.AllowReauth = false // client.go does that, with credentials that it reads anew
	return c, nil
}

func fromEnvironment() (*credentials, error) {
	auth, err := openstack.AuthOptionsFromEnv()
	if token := os.Getenv("OS_TOKEN"); err != nil && token != "" && os.Getenv("OS_AUTH_URL") != "" {
		auth, err = gophercloud.AuthOptions{IdentityEndpoint: os.Getenv("OS_AUTH_URL")}, nil
		auth.TokenID = token
	}
	if err != nil {
		err := disk.Errorf(disk.Denied, "find credentials: %w", err)
		return nil, disk.Hint(err, "name a cloud of clouds.yaml (key cloud, or OS_CLOUD), or set the variables of an openrc file")
	}
	// What gophercloud takes for one domain is two: of the user, and of the project.
	auth.DomainID = cmp.Or(os.Getenv("OS_USER_DOMAIN_ID"), auth.DomainID)
	if auth.DomainID == "" {
		auth.DomainName = cmp.Or(os.Getenv("OS_USER_DOMAIN_NAME"), auth.DomainName)
	}
	if name := auth.TenantName; name != "" && auth.TenantID == "" && auth.Scope == nil {
		auth.Scope = &gophercloud.AuthScope{
			ProjectName: name,
			DomainID:    cmp.Or(os.Getenv("OS_PROJECT_DOMAIN_ID"), os.Getenv("OS_DOMAIN_ID")),
			DomainName:  cmp.Or(os.Getenv("OS_PROJECT_DOMAIN_NAME"), os.Getenv("OS_DOMAIN_NAME")),
		}
		if auth.Scope.DomainID != "" {
			auth.Scope.DomainName = ""
		}
	}
	insecure := slices.Contains([]string{"1", "true", "yes"}, strings.ToLower(os.Getenv("OS_INSECURE")))
	config, err := tlsConfig(os.Getenv("OS_CACERT"), os.Getenv("OS_CERT"), os.Getenv("OS_KEY"), insecure)
	if err != nil {
		return nil, err
	}
	return &credentials{
		auth: auth, tls: config, source: "variables OS_* of the environment",
		endpoints: gophercloud.EndpointOpts{
			Region:       os.Getenv("OS_REGION_NAME"),
			Availability: gophercloud.Availability(strings.TrimSuffix(os.Getenv("OS_INTERFACE"), "URL")),
		},
	}, nil
}

// tlsConfig is that of the files; empty names none.
func tlsConfig(ca, cert, key string, insecure bool) (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: insecure} //nolint:gosec // the owner of the cloud says so
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, disk.Errorf(disk.Invalid, "read CA file %q: it has no certificate", ca)
		}
	}
	if cert != "" && key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func fromFile(cloud string) (*credentials, error) {
	path, file, err := readClouds()
	if err != nil {
		return nil, err
	}
	entry, ok := file.Clouds[cloud]
	if !ok {
		err := disk.Errorf(disk.Denied, "find credentials: %s has no cloud %q", path, cloud)
		return nil, disk.Hint(err, "it has %s", strings.Join(file.names(), ", "))
	}
	auth, endpoints, config, err := clouds.Parse(clouds.WithCloudName(cloud), clouds.WithLocations(path))
	if err != nil {
		return nil, disk.Errorf(disk.Denied, "read cloud %q of %s: %w", cloud, path, err)
	}
	if entry.Region == "" && len(entry.Regions) > 0 && endpoints.Region == "" {
		endpoints.Region = entry.Regions[0].name
	}
	override := map[string]string{}
	if entry.ImageEndpoint != "" {
		override[imageService] = entry.ImageEndpoint
	}
	if entry.ComputeEndpoint != "" {
		override[computeService] = entry.ComputeEndpoint
	}
	return &credentials{auth: auth, endpoints: endpoints, tls: config, override: override, source: fmt.Sprintf("cloud %s of %s", cloud, path)}, nil
}

// A cloudsFile is what we read of clouds.yaml ourselves: gophercloud reads the rest.
type cloudsFile struct {
	Clouds map[string]struct {
		Region          string        `yaml:"region_name"`
		Regions         []cloudRegion `yaml:"regions"`
		ImageEndpoint   string        `yaml:"image_endpoint_override"`
		ComputeEndpoint string        `yaml:"compute_endpoint_override"`
	} `yaml:"clouds"`
}

// A cloudRegion is a name, or a mapping that has one.
type cloudRegion struct{ name string }

// UnmarshalYAML takes both.
func (r *cloudRegion) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		r.name = n.Value
		return nil
	}
	var full struct {
		Name string `yaml:"name"`
	}
	err := n.Decode(&full)
	r.name = full.Name
	return err
}

func (f *cloudsFile) names() []string {
	var names []string
	for name := range f.Clouds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// cloudsPaths are where clouds.yaml may be, the first first.
func cloudsPaths() []string {
	if path := os.Getenv("OS_CLIENT_CONFIG_FILE"); path != "" {
		return []string{path}
	}
	paths := []string{"clouds.yaml"}
	if dir, err := os.UserConfigDir(); err == nil {
		paths = append(paths, filepath.Join(dir, "openstack", "clouds.yaml"))
	}
	return append(paths, "/etc/openstack/clouds.yaml")
}

// readClouds reads the clouds.yaml that wins.
func readClouds() (path string, file *cloudsFile, err error) {
	for _, path := range cloudsPaths() {
		text, err := os.ReadFile(path)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		file := &cloudsFile{}
		if err == nil {
			err = yaml.Unmarshal(text, file)
		}
		if err != nil {
			return "", nil, disk.Errorf(disk.Denied, "read credentials: %s: %w", path, err)
		}
		return path, file, nil
	}
	err = disk.Errorf(disk.NotFound, "find credentials: there is no clouds.yaml among %s", strings.Join(cloudsPaths(), ", "))
	return "", nil, disk.Hint(err, "put one there, or name it in OS_CLIENT_CONFIG_FILE")
}

// A Cloud is one of clouds.yaml, in one region.
type Cloud struct {
	Name   string
	Region string // empty where the cloud has one, or none is named
}

// Clouds are those of the clouds.yaml that the openstack command would read, one
// for each region; NotFound without such a file.
func Clouds() ([]Cloud, error) {
	_, file, err := readClouds()
	if err != nil {
		return nil, err
	}
	var all []Cloud
	for _, name := range file.names() {
		regions := file.Clouds[name].Regions
		if len(regions) < 2 {
			all = append(all, Cloud{Name: name})
			continue
		}
		for _, r := range regions {
			all = append(all, Cloud{Name: name, Region: r.name})
		}
	}
	return all, nil
}

// stamp tells the files of credentials from those that were read before: paths, sizes
// and times. Variables of the environment do not change.
func stamp() string {
	var b strings.Builder
	for _, path := range cloudsPaths() {
		for _, file := range []string{path, filepath.Join(filepath.Dir(path), "secure.yaml")} {
			if info, err := os.Stat(file); err == nil {
				fmt.Fprintln(&b, file, info.Size(), info.ModTime().UnixNano())
			}
		}
	}
	return b.String()
}
