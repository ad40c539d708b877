package openstack

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
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
	settle(&c.auth)
	return c, nil
}

func fromFile(cloud string) (*credentials, error) {
	path, file, err := readClouds()
	if e := (*disk.Error)(nil); errors.As(err, &e) && e.Kind == disk.NotFound { // which would say that an image is gone
		err = &disk.Error{Kind: disk.Denied, Hint: e.Hint, Err: e.Err}
	}
	if err != nil {
		return nil, err
	}
	entry, ok := file.Clouds[cloud]
	if !ok {
		err := disk.Errorf(disk.Denied, "find credentials: %s has no cloud %q", path, cloud)
		return nil, disk.Hint(err, "it has %s", strings.Join(file.names(), ", "))
	}
	if !authTypes(entry.AuthType) {
		err := disk.Errorf(disk.Unsupported, "read cloud %q of %s: auth_type %q is not known", cloud, path, entry.AuthType)
		return nil, disk.Hint(err, "an application credential works everywhere: openstack application credential create NAME")
	}
	options := []clouds.ParseOption{clouds.WithCloudName(cloud), clouds.WithLocations(path)}
	if public := os.Getenv("OS_CLIENT_VENDOR_CONFIG_FILE"); public != "" {
		options = append(options, clouds.WithPublicLocations(public))
	}
	auth, endpoints, config, err := clouds.Parse(options...)
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
		AuthType        string        `yaml:"auth_type"`
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

// Anchor makes the paths of credentials that the environment names absolute, for a process
// that is about to leave its working directory, where a clouds.yaml may be too.
func Anchor() error {
	const config = "OS_CLIENT_CONFIG_FILE"
	names := map[string]string{}
	for _, key := range []string{config, "OS_CLIENT_VENDOR_CONFIG_FILE", "OS_CACERT", "OS_CERT", "OS_KEY"} {
		names[key] = os.Getenv(key)
	}
	if _, err := os.Stat("clouds.yaml"); err == nil && names[config] == "" {
		names[config] = "clouds.yaml"
	}
	for key, path := range names {
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
		dir := filepath.Dir(path)
		for _, file := range []string{path, filepath.Join(dir, "secure.yaml"), filepath.Join(dir, "clouds-public.yaml")} {
			if info, err := os.Stat(file); err == nil {
				fmt.Fprintln(&b, file, info.Size(), info.ModTime().UnixNano())
			}
		}
	}
	return b.String()
}
