package openstack

import (
	"cmp"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"chromogenic/disk"
)

// The types of the services that are asked.
const (
	imageService    = "image"
	computeService  = "compute"
	identityService = "identity"
)

// blockStorage are the names under which catalogs have the block storage service.
func blockStorage() []string {
	return []string{"block-storage", "volumev3", "volumev2", "volume", "block-store"}
}

// locate finds the services, in the catalog that came with the token: no service is asked
// for that, so one that is away keeps nobody from the others. A cloud without nova has
// images alone.
func (s *session) locate(catalog *tokens.ServiceCatalog, cred *credentials) error {
	s.volumes = inCatalog(catalog, cred.endpoints, blockStorage()...) != ""
	if url := cmp.Or(cred.override[computeService], inCatalog(catalog, cred.endpoints, computeService)); url != "" {
		s.endpoints[computeService] = versioned(url, "/v2.1")
	}
	url := cmp.Or(cred.override[imageService], inCatalog(catalog, cred.endpoints, imageService))
	if url == "" {
		err := disk.Errorf(disk.Unsupported, "find the image service: the catalog has none for region %q and interface %s",
			cred.endpoints.Region, availability(cred.endpoints))
		return disk.Hint(err, "look at region_name and interface of the cloud")
	}
	s.endpoints[imageService] = versioned(url, "/v2")
	return nil
}

// inCatalog is the URL of a service, by its types; empty where the catalog has none for
// the region and the interface.
func inCatalog(catalog *tokens.ServiceCatalog, opts gophercloud.EndpointOpts, types ...string) string {
	for _, service := range catalog.Entries {
		if !slices.Contains(types, service.Type) {
			continue
		}
		for _, e := range service.Endpoints {
			here := opts.Region == "" || e.Region == opts.Region || e.RegionID == opts.Region
			if here && e.Interface == availability(opts) {
				return e.URL
			}
		}
	}
	return ""
}

func availability(opts gophercloud.EndpointOpts) string {
	return string(cmp.Or(opts.Availability, gophercloud.AvailabilityPublic))
}

// versioned is the URL of a service with a version in its path: catalogs have it with
// and without.
func versioned(url, version string) string {
	url = strings.TrimRight(url, "/")
	if strings.Contains(url, "/v2") {
		return url
	}
	return url + version
}
