package cleaner

import (
	"bytes"
	"path"
	"regexp"
)

// containers removes containers, of which every machine would have the same with what
// is in them, and the identity of a machine in a cluster. Images and volumes stay.
func containers(g *Guest) error {
	if err := dockerLayers(g); err != nil {
		return err
	}
	if err := g.remove(
		"/var/lib/docker/containers/*", "/var/lib/docker/swarm", "/var/lib/docker/tmp/*", "/var/lib/docker/engine-id", "/var/lib/docker/trust", "/var/lib/docker/network/files/*", "/var/lib/docker/runtimes/*", "/var/lib/docker/plugins/tmp/*",
		"/var/lib/containerd/io.containerd.grpc.v1.cri/containers/*", "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/*", "/var/lib/containerd/io.containerd.runtime.*/*", "/var/lib/containerd/tmpmounts/*", "/var/lib/containers/storage/overlay-containers/*", "/var/lib/containers/storage/libpod/bolt_state.db", "/var/lib/containers/storage/db.sql*", "/var/lib/containers/cache/*", "/var/lib/crio/*",
		"/var/lib/kubelet/pki", "/var/lib/kubelet/pods/*", "/var/lib/kubelet/config.json", "/var/lib/kubelet/cpu_manager_state", "/var/lib/kubelet/memory_manager_state", "/var/lib/kubelet/kubeconfig", "/var/lib/kubelet/bootstrap-kubeconfig", "/var/lib/kubelet/*.kubeconfig", "/var/lib/kube-proxy/kubeconfig", "/etc/kubernetes/*.conf", "/etc/kubernetes/*kubeconfig*", "/etc/kubernetes/pki", "/etc/kubernetes/ssl", "/etc/kubernetes/manifests/*", "/etc/kubernetes/tmp", "/etc/kubernetes/*token*", "/etc/kubernetes/*encryption*", "/var/lib/etcd/*", "/etc/etcd/pki", "/etc/etcd/*.key", "/etc/ssl/etcd", "/var/lib/cni/*", "/etc/cni/net.d/*kubeconfig*", "/var/lib/calico/*", "/var/lib/weave/*",
		"/etc/rancher/*/*.yaml", "/etc/rancher/node", "/var/lib/rancher/*/server", "/var/lib/rancher/*/agent/*.kubeconfig", "/var/lib/rancher/*/agent/*.key", "/var/lib/rancher/*/agent/*.crt", "/var/lib/rancher/*/agent/etc", "/etc/systemd/system/k3s*.service.env", "/etc/systemd/system/rke2*.env", "/etc/default/rke2*", "/var/lib/k0s/pki", "/var/lib/k0s/etcd", "/var/lib/k0s/*.conf", "/var/lib/minikube/certs", "/var/lib/microshift/*", "/etc/microk8s*", "/var/snap/microk8s/*/credentials", "/var/snap/microk8s/*/certs", "/var/snap/microk8s/*/var/kubernetes/backend", "/var/lib/lxd/*.key", "/var/snap/lxd/common/lxd/*.key", "/var/lib/incus/*.key", "/var/lib/buildkit/*.db", "/var/lib/portainer/*",
	); err != nil {
		return err
	}
	if g.exists("/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db") {
		g.warn("containerd keeps what it knows of containers with the images, in /var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db, which stays")
	}
	return nil
}

// layerID is the name that docker has for a layer.
var layerID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// dockerLayers removes what containers have written, which lies beside the layers of
// images: a file for each says where.
func dockerLayers(g *Guest) error {
	mounts, err := g.glob("/var/lib/docker/image/*/layerdb/mounts/*")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		driver := path.Base(path.Dir(path.Dir(path.Dir(m))))
		for _, file := range []string{"mount-id", "init-id"} {
			text, _, err := g.read(path.Join(m, file))
			if err != nil {
				return err
			}
			id := bytes.TrimSuffix(bytes.TrimSpace(text), []byte("-init"))
			if !layerID.Match(id) {
				continue
			}
			layer := path.Join("/var/lib/docker", literally(driver), string(id))
			if err := g.remove(layer, layer+"-init"); err != nil {
				return err
			}
		}
		if err := g.removePath(m); err != nil {
			return err
		}
	}
	return nil
}
