package pipeline

import "github.com/prometheus/client_golang/prometheus"

// trafficMetrics are the numbers of Traffic. The provider * is all together.
type trafficMetrics struct{ p *Pipeline }

// A trafficMetric is one of them; value has no number where ok is false.
type trafficMetric struct {
	name, help string
	kind       prometheus.ValueType
	value      func(Traffic) (n int64, ok bool)
}

func (trafficMetrics) all() []trafficMetric {
	limit := func(read func(Rate) int64) func(Traffic) (int64, bool) {
		return func(t Traffic) (int64, bool) {
			if t.Rate == nil {
				return 0, false
			}
			return read(*t.Rate), read(*t.Rate) > 0
		}
	}
	budget := func(read func(*BudgetUse) int64) func(Traffic) (int64, bool) {
		return func(t Traffic) (int64, bool) {
			if t.Budget == nil {
				return 0, false
			}
			return read(t.Budget), true
		}
	}
	one := func(t Traffic) bool { return t.Provider != allSites }
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return []trafficMetric{
		{"fetched_bytes_total", "Bytes that a provider gave, tables of containers too; what the block cache has is not fetched.", counter, func(t Traffic) (int64, bool) { return t.Fetched, one(t) }},
		{"sent_bytes_total", "Bytes, without holes, that were sent to a provider.", counter, func(t Traffic) (int64, bool) { return t.Sent, one(t) }},
		{"bwlimit_read_bytes_per_second", "The limit of what is read from a provider, where there is one.", gauge, limit(func(r Rate) int64 { return r.Read })},
		{"bwlimit_send_bytes_per_second", "The limit of what is sent to a provider, where there is one.", gauge, limit(func(r Rate) int64 { return r.Send })},
		{"read_budget_bytes", "The read budget of a provider for its present period, where there is one.", gauge, budget(func(b *BudgetUse) int64 { return b.Bytes })},
		{"read_budget_used_bytes", "What of it is used.", gauge, budget(func(b *BudgetUse) int64 { return b.Used })},
		{"read_budget_renewed_timestamp_seconds", "When it is renewed, in Unix time.", gauge, budget(func(b *BudgetUse) int64 { return b.Renewed.Unix() })},
	}
}

func (m trafficMetric) desc() *prometheus.Desc {
	return prometheus.NewDesc("chromogenic_"+m.name, m.help, []string{"provider"}, nil)
}

// Describe is that of prometheus.Collector.
func (m trafficMetrics) Describe(c chan<- *prometheus.Desc) {
	for _, one := range m.all() {
		c <- one.desc()
	}
}

// Collect is that of prometheus.Collector.
func (m trafficMetrics) Collect(c chan<- prometheus.Metric) {
	for _, t := range m.p.Traffic() {
		for _, one := range m.all() {
			if n, ok := one.value(t); ok {
				c <- prometheus.MustNewConstMetric(one.desc(), one.kind, float64(n), t.Provider)
			}
		}
	}
}
