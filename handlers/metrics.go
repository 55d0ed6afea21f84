package handlers

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics counts what the server does. Every label has a few values, all of them ours: nothing that a client writes freely
// becomes one.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec   // by route, method, status
	durations *prometheus.HistogramVec // by route, method; seconds
	bytes     *prometheus.CounterVec   // by direction
	uploads   *prometheus.CounterVec   // by outcome
	refusals  *prometheus.CounterVec   // by reason
	storage   *prometheus.CounterVec   // store errors by kind
	inFlight  prometheus.Gauge
	receiving prometheus.Gauge // uploads
	received  atomic.Int64     // bytes of the uploads under way
	reload    prometheus.Gauge
	reloaded  prometheus.Gauge
}

func newMetrics(s *Server) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "depot_" + name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "depot_" + name, Help: help})
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: counter("requests_total", "Requests, by the status they were answered with; also if the answer was broken off then, which is a refusal as well.", "route", "method", "status"),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "depot_request_duration_seconds", Help: "From the end of a request's header to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 100, 300}}, []string{"route", "method"}),
		bytes:     counter("bytes_total", "Bytes of bodies, received and sent.", "direction"),
		uploads:   counter("uploads_total", "Uploads by outcome: created, unchanged, replaced, refused (4xx), failed (5xx).", "outcome"),
		refusals:  counter("refusals_total", "Requests that were refused or failed, by reason.", "reason"),
		storage:   counter("store_errors_total", "Requests that the storage failed, by kind: full, unavailable, timeout, untrusted, failed.", "kind"),
		inFlight:  gauge("requests_in_flight", "Requests under way."),
		receiving: gauge("staging_uploads", "Uploads that are being received."),
		reload:    gauge("reload_success", "1 if the access file, the files of secrets and the certificate could be read at the last look, 0 if an older state of them is in force."),
		reloaded:  gauge("reload_success_timestamp_seconds", "When they could last be read."),
	}
	value := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "depot_" + name, Help: help}, read)
	}
	m.registry.MustRegister(m.requests, m.durations, m.bytes, m.uploads, m.refusals, m.storage, m.inFlight, m.receiving, m.reload, m.reloaded,
		value("staging_bytes", "Bytes of the uploads that are being received.", func() float64 { return float64(m.received.Load()) }),
		value("store_up", "1 if the storage passed its last check, 0 if not, or if it does not answer.", func() float64 { return truth(s.health.checkStore(time.Second) == nil) }),
		value("draining", "1 while the server waits for the requests in flight before it ends.", func() float64 { return truth(s.health.draining.Load()) }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "depot_build_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": s.cfg.Version, "go": runtime.Version()}}, func() float64 { return 1 }),
	)
	if space := s.cfg.Space; space != nil {
		m.registry.MustRegister(
			value("store_free_bytes", "Room on the file system that uploads are received on.", func() float64 { free, _, _ := space(); return float64(free) }),
			value("store_size_bytes", "Size of that file system.", func() float64 { _, size, _ := space(); return float64(size) }))
	}
	m.looked(nil)
	// What alerts look at is there from the beginning, not from the first time on.
	for _, reason := range []string{"no_credentials", "bad_credentials", "no_issuer_keys", "forbidden"} {
		m.refusals.WithLabelValues(reason)
	}
	for _, kind := range []string{"full", "unavailable", "timeout", "untrusted", "failed"} {
		m.storage.WithLabelValues(kind)
	}
	for _, outcome := range []string{"created", "unchanged", "replaced", "refused", "failed"} {
		m.uploads.WithLabelValues(outcome)
	}
	return m
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Reloaded notes how the last look at the files that can change has ended.
func (s *Server) Reloaded(err error) {
	s.metrics.looked(err)
	s.warnOfCertificate()
}

func (m *metrics) looked(err error) {
	m.reload.Set(truth(err == nil))
	if err == nil {
		m.reloaded.SetToCurrentTime()
	}
}

// ended counts a request that has ended.
func (m *metrics) ended(x *exchange) {
	route := x.Path()
	if route != "/healthz" && route != "/readyz" {
		route = "artifact"
	}
	method := knownMethod(x.Request().Method)
	m.requests.WithLabelValues(route, method, strconv.Itoa(x.w.status)).Inc()
	m.durations.WithLabelValues(route, method).Observe(time.Since(x.start).Seconds())
	m.bytes.WithLabelValues("received").Add(float64(x.body.moved))
	m.bytes.WithLabelValues("sent").Add(float64(x.w.bytes))
	if x.refusal != "" {
		m.refusals.WithLabelValues(x.refusal).Inc()
		if kind, store := storeErrors[x.refusal]; store {
			m.storage.WithLabelValues(kind).Inc()
		}
	}
	if method == http.MethodPut && route == "artifact" {
		switch {
		case x.outcome != "":
			m.uploads.WithLabelValues(x.outcome).Inc()
		case x.w.status >= 500:
			m.uploads.WithLabelValues("failed").Inc()
		default:
			m.uploads.WithLabelValues("refused").Inc()
		}
	}
	m.received.Add(-x.body.moved)
}

// storeErrors are the reasons that are the storage's.
var storeErrors = map[string]string{"store_full": "full", "store_unavailable": "unavailable", "store_timeout": "timeout", "store_untrusted": "untrusted", "failed": "failed"}

// adminRoutes are what operators can ask for, by GET or HEAD.
func (s *Server) adminRoutes() map[string]http.Handler {
	return map[string]http.Handler{
		"/metrics":               promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}),
		"/healthz":               s,
		"/readyz":                s,
		"/debug/pprof/":          http.HandlerFunc(pprof.Index),
		"/debug/pprof/{profile}": http.HandlerFunc(pprof.Index),
		"/debug/pprof/profile":   http.HandlerFunc(pprof.Profile),
		"/debug/pprof/symbol":    http.HandlerFunc(pprof.Symbol),
		"/debug/pprof/trace":     http.HandlerFunc(pprof.Trace),
		"/debug/pprof/cmdline":   http.NotFoundHandler(), // a command line may name what is nobody's business
	}
}

// Admin answers what operators ask: metrics, health and profiles. Nobody is asked who they are, so it belongs on an address
// that only they reach.
func (s *Server) Admin() http.Handler {
	mux := http.NewServeMux()
	for path, handler := range s.adminRoutes() {
		if strings.HasSuffix(path, "/") {
			path += "{$}" // itself, not what is below it
		}
		mux.Handle("GET "+path, handler)
	}
	return mux
}

// serveAdmin answers operators until stop is called.
func (s *Server) serveAdmin() (stop func()) {
	server := &http.Server{Handler: s.Admin(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 120 * time.Second, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn)}
	s.cfg.Log.Info("listening for operators, without credentials: metrics, health, profiles", "address", s.cfg.Admin.Addr().String())
	go func() {
		if err := server.Serve(s.cfg.Admin); !errors.Is(err, http.ErrServerClosed) {
			s.cfg.Log.Error("the admin listener has failed", "reason", err.Error())
		}
	}()
	return func() { _ = server.Close() }
}
