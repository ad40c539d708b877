package pipeline

import (
	"errors"
	"fmt"
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"chromogenic/disk"
	"chromogenic/pipeline/jobs"
)

// metrics are the numbers of a Pipeline. Their labels are providers of the
// configuration, states and kinds of errors: none grows with the images.
type metrics struct {
	p        *Pipeline
	registry *prometheus.Registry
	read     *prometheus.CounterVec // by provider
	copies   *prometheus.CounterVec // by provider and state
	errors   *prometheus.CounterVec // by provider and kind
	spooled  prometheus.Counter
}

func newMetrics(p *Pipeline) *metrics {
	m := &metrics{p: p, registry: prometheus.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chromogenic_" + name, Help: help}, labels)
		m.registry.MustRegister(v)
		return v
	}
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "chromogenic_" + name, Help: help}, value))
	}
	m.read = counter("read_bytes_total", "Bytes of disks and containers that were read from a provider's images, by views and copies.", "provider")
	m.copies = counter("copies_total", "Copies into a provider that have ended or were interrupted, by their state then.", "provider", "state")
	m.errors = counter("errors_total", "Failures of a provider's images, when they are opened, read or sent, by kind.", "provider", "kind")
	m.spooled = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "chromogenic_spooled_bytes_total", Help: "Bytes written into the mount that had to be stored in scratch space.",
	})
	m.registry.MustRegister(m.spooled)
	for _, name := range p.SiteNames() {
		m.read.WithLabelValues(name)
	}
	gauge("jobs_running", "Copies that run now.", func() float64 { return float64(p.jobs.Running()) })
	gauge("spool_bytes", "Scratch space that spools take, in bytes.", func() float64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return float64(p.spooled())
	})
	m.registry.MustRegister(
		jobStates{p.jobs},
		trafficMetrics{p},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Metrics writes the numbers of the pipeline in the text format of Prometheus.
func (p *Pipeline) Metrics(w io.Writer) error {
	families, err := p.metrics.registry.Gather()
	if err != nil {
		return fmt.Errorf("gather metrics: %w", err)
	}
	enc := expfmt.NewEncoder(w, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return fmt.Errorf("write metrics: %w", err)
		}
	}
	return nil
}

// known tells whether site is a provider of the configuration, and so may be a
// label; others are names that somebody has made up.
func (m *metrics) known(site string) bool {
	_, ok := m.p.Provider(site)
	return ok
}

// failed counts an error of a provider.
func (m *metrics) failed(site string, err error) {
	if m.known(site) {
		m.errors.WithLabelValues(site, disk.KindOf(err).String()).Inc()
	}
}

// ended counts a copy into a provider.
func (m *metrics) ended(site string, state jobs.State, err error) {
	if !m.known(site) {
		return
	}
	m.copies.WithLabelValues(site, string(state)).Inc()
	if state == jobs.Failed {
		m.failed(site, err)
	}
}

// counted counts what is read through img, of a site's image.
func (m *metrics) counted(site string, img disk.Image) disk.Image {
	if !m.known(site) {
		return img
	}
	return countedImage{img, m, site, m.read.WithLabelValues(site)}
}

type countedImage struct {
	disk.Image
	m    *metrics
	site string
	read prometheus.Counter
}

// ReadAt is that of the image.
func (c countedImage) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Image.ReadAt(p, off)
	c.read.Add(float64(n))
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, disk.ErrClosed) {
		c.m.failed(c.site, err)
	}
	return n, err
}

// jobStates counts the records of jobs by state.
type jobStates struct{ jobs *jobs.Jobs }

func (jobStates) desc() *prometheus.Desc {
	return prometheus.NewDesc("chromogenic_jobs", "Jobs that are remembered, by state.", []string{"state"}, nil)
}

// Describe is that of prometheus.Collector.
func (s jobStates) Describe(c chan<- *prometheus.Desc) { c <- s.desc() }

// Collect is that of prometheus.Collector.
func (s jobStates) Collect(c chan<- prometheus.Metric) {
	count := map[jobs.State]int{}
	for _, rec := range s.jobs.List() {
		count[rec.State]++
	}
	for _, state := range []jobs.State{jobs.Queued, jobs.Running, jobs.Interrupted, jobs.Done, jobs.Failed, jobs.Cancelled} {
		c <- prometheus.MustNewConstMetric(s.desc(), prometheus.GaugeValue, float64(count[state]), string(state))
	}
}
