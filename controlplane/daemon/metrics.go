package daemon

import (
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/heddle-gpu/heddle/controlplane/reasons"
)

// family is one metric. The exporter and docs/metrics.md both follow from families, and the dashboard's queries are checked
// against what the exporter gives.
type family struct {
	name, help string
	kind       prometheus.ValueType // of histograms 0
	labels     []string
	group      string   // heading in docs/metrics.md
	reasons    []string // values of the label reason; others are added up under other
	desc       *prometheus.Desc
}

// families is every metric of Heddle's, in the order of the documentation.
var families []*family

// Labels. Their values are bounded: UUID by the GPUs (as in DCGM's metrics, so that `* on(UUID)` joins), uid by the users that have
// an executor, class by maxClassLabels, reason by the list of package reasons, path, step, call and thread by fixed words. No label
// holds a client, a pid, a kernel, or text that a client chose.
var (
	ofDaemon   []string
	ofExecutor = []string{"UUID", "uid"}
	ofClass    = []string{"UUID", "uid", "class"}
	byReason   = []string{"UUID", "uid", "reason"}
	byPath     = []string{"UUID", "uid", "path"}
	byStep     = []string{"UUID", "uid", "step"}
	ofClassBy  = []string{"UUID", "uid", "class", "reason"}
)

func define(group string, kind prometheus.ValueType, name, help string, labels []string) *family {
	f := &family{name: name, help: help, kind: kind, labels: labels, group: group, desc: prometheus.NewDesc(name, help, labels, nil)}
	families = append(families, f)
	return f
}

func gauge(group, name, help string, labels []string) *family {
	return define(group, prometheus.GaugeValue, name, help, labels)
}

func counter(group, name, help string, labels []string) *family {
	return define(group, prometheus.CounterValue, name, help, labels)
}

func histogram(group, name, help string, labels []string) *family {
	return define(group, 0, name, help, labels)
}

// because is a counter or gauge by reason.
func because(group string, kind prometheus.ValueType, name, help string, codes []string) *family {
	return define(group, kind, name, help, byReason).because(codes)
}

// because says which reasons there are.
func (f *family) because(codes []string) *family {
	f.reasons = codes
	return f
}

// Reasons why an executor ended (heddle_executor_losses_total).
const (
	lossFault   = "fault"
	lossInDoubt = "fault-in-doubt"
	lossEnded   = "ended"
)

// noForm are the codes that say why a kernel has no rewritten form, whoever said so.
func noForm() []string {
	return slices.Concat(reasons.Codes(reasons.Rewrite), reasons.Codes(reasons.PTX), reasons.Codes(reasons.Compile))
}

// Headings of docs/metrics.md.
const (
	theDaemon  = "The daemon and its policy"
	clients    = "Clients and executors"
	words      = "Words"
	rewritten  = "Rewritten kernels"
	graphs     = "Clients' CUDA graphs"
	sequences  = "Prepared runs: launches that a client repeats unchanged, issued as one graph"
	classes    = "Classes"
	schedulers = "The executor's own time"
)

var (
	metricBuild        = gauge(theDaemon, "heddle_build_info", "Version of the daemon; always 1.", []string{"version"})
	metricStart        = gauge(theDaemon, "heddle_daemon_start_time_seconds", "When the daemon started, Unix time.", ofDaemon)
	metricDraining     = gauge(theDaemon, "heddle_daemon_draining", "1 while the daemon takes no new client.", ofDaemon)
	metricReloadOK     = gauge(theDaemon, "heddle_policy_last_reload_successful", "1 when the policy files as last read are in force, 0 when they have mistakes and what was before stays.", ofDaemon)
	metricReloadTime   = gauge(theDaemon, "heddle_policy_last_reload_success_timestamp_seconds", "When the policy in force was read, Unix time.", ofDaemon)
	metricReloads      = counter(theDaemon, "heddle_policy_reloads_total", "Readings of the policy files after the start that gave a policy.", ofDaemon)
	metricReloadFailed = counter(theDaemon, "heddle_policy_reload_failures_total", "Readings of the policy files that gave none.", ofDaemon)

	metricUp       = gauge(clients, "heddle_executor_up", "1 while an executor serves.", ofExecutor)
	metricAnswers  = gauge(clients, "heddle_executor_answers", "1 when the executor gave its statistics for this scrape; without them most metrics below are absent.", ofExecutor)
	metricStarts   = counter(clients, "heddle_executor_starts_total", "Executors started, the first included.", ofExecutor)
	metricLosses   = because(clients, prometheus.CounterValue, "heddle_executor_losses_total", "Executors that ended while they served or looked for the cause of a fault: by a device fault whose client is known (fault) or not yet (fault-in-doubt), or otherwise (ended).", []string{lossFault, lossInDoubt, lossEnded})
	metricClients  = gauge(clients, "heddle_clients", "Sessions: client processes on this GPU.", ofClass)
	metricFailed   = because(clients, prometheus.GaugeValue, "heddle_failed_clients", "Sessions that have a sticky error, by its reason.", reasons.Codes(reasons.Session))
	metricNative   = gauge(clients, "heddle_clients_with_native_kernels", "Sessions that run at least one kernel natively because it was refused.", ofClass)
	metricDevice   = gauge(clients, "heddle_client_device_memory_bytes", "Device memory of clients that the executor maps.", ofClass)
	metricHost     = gauge(clients, "heddle_client_host_memory_bytes", "Host memory that clients share with the executor.", ofClass)
	metricImages   = gauge(clients, "heddle_image_store_bytes", "Code that clients have sent.", ofExecutor)
	metricRing     = gauge(clients, "heddle_ring_used_bytes", "Bytes of the clients' rings that hold ops not yet done.", ofExecutor)
	metricRingMost = gauge(clients, "heddle_ring_used_bytes_max", "The same of the fullest ring.", ofExecutor)

	metricStragglers = gauge(clients, "heddle_stragglers", "Clients whose ops take several times as long as they should, by how they are served: apart from others (step apart), one op of each of their streams at a time, too (step limited), or in their own contexts (step own-context).", byStep)
	metricEvictions  = counter(clients, "heddle_straggler_evictions_total", "Times that such a client was taken out of shared launches.", ofExecutor)
	metricOutside    = because(clients, prometheus.CounterValue, "heddle_outside_partition_ops_total", "Ops of clients that were confined to a part of the multiprocessors (partition), which ran on all of them, by reason.", reasons.Codes(reasons.Outside))
	metricSlowed     = gauge(clients, "heddle_company_slowdown_ratio", "By what part kernels take longer beside others' than alone, smoothed over those that were measured, of the class's client that suffers most.", ofClass)
	metricInFlight   = gauge(clients, "heddle_in_flight_ops", "Ops that were issued and are not done.", ofExecutor)
	metricWaiting    = gauge(clients, "heddle_waiting_ops", "Ops that were read from rings and are not issued.", ofExecutor)
	metricBad        = counter(clients, "heddle_bad_records_total", "Records in rings that made no sense; each ends its session.", ofExecutor)

	metricOps       = counter(words, "heddle_ops_total", "Ops handed to the driver: kernels, memsets, device copies.", ofExecutor)
	metricLaunches  = counter(words, "heddle_kernel_ops_total", "Kernels: ops that are one, and those of graphs.", ofExecutor)
	metricWords     = counter(words, "heddle_words_total", "Words issued: one op as its client asked (path alone), a rewritten kernel that does the work of one or more (path coalesced), one that does a range of one's blocks (path sliced), a graph of launches that the client repeats (path prepared), or several clients' graphs side by side (path joined).", byPath)
	metricWidth     = histogram(words, "heddle_word_width", "Kernels side by side in a launch: those of a graph by itself count one by one, those of joined graphs as many as there are graphs.", ofExecutor)
	metricCoalesced = counter(words, "heddle_coalesced_ops_total", "Kernels that shared a launch with other clients', those of joined graphs too.", ofExecutor)
	metricSliced    = counter(words, "heddle_sliced_ops_total", "Kernels that were issued in slices of their blocks, and graphs in parts, so that more urgent ops need not wait for all of it.", ofExecutor)
	metricApart     = because(words, prometheus.CounterValue, "heddle_word_limits_total", "Why launches did not hold more kernels, by reason.", reasons.Codes(reasons.Apart))
	metricHeld      = counter(words, "heddle_held_ops_total", "Kernels and graphs that waited for company.", ofExecutor)
	metricInVain    = counter(words, "heddle_held_in_vain_ops_total", "Kernels that waited and got less company than was expected.", ofExecutor)
	metricHeldTime  = counter(words, "heddle_held_seconds_total", "Time that kernels waited for company.", ofExecutor)
	metricHolding   = gauge(words, "heddle_held_ops", "Kernels that wait for company now.", ofExecutor)
	metricPairs     = gauge(words, "heddle_interference_pairs", "Pairs of kernels, and of classes and kernels, of which it is known how much the one slows the other.", ofExecutor)
	metricHurting   = gauge(words, "heddle_interference_hurting_pairs", "Of these pairs those that were measured often enough and slow so much that decisions rest on it.", ofExecutor)
	metricMet       = counter(words, "heddle_interference_measurements_total", "Measurements of kernels beside others that taught how much those slow them.", ofExecutor)
	metricAvoided   = counter(words, "heddle_interference_avoided_total", "Times that kernels waited until others had run, beside which both would have taken longer.", ofExecutor)
	metricSignals   = counter(words, "heddle_signals_total", "Done words: written by the stream (path stream) or by the launch itself (path kernel).", byPath)
	metricOrders    = counter(words, "heddle_stream_orders_total", "Events that order one stream after another.", ofExecutor)

	metricKernels   = gauge(rewritten, "heddle_kernels", "Kernels known to the executor.", ofExecutor)
	metricForms     = gauge(rewritten, "heddle_forms", "Rewritten kernels that are loaded.", ofExecutor)
	metricFormBytes = gauge(rewritten, "heddle_form_code_bytes", "Their machine code.", ofExecutor)
	metricAsked     = counter(rewritten, "heddle_form_requests_total", "Forms asked for.", ofExecutor)
	metricCompiled  = counter(rewritten, "heddle_form_compilations_total", "Forms compiled.", ofExecutor)
	metricHits      = counter(rewritten, "heddle_form_cache_hits_total", "Forms that came from the cache on disk.", ofExecutor)
	metricRefused   = because(rewritten, prometheus.CounterValue, "heddle_form_refusals_total", "Forms that do not exist, by reason.", noForm())
	metricCompiling = counter(rewritten, "heddle_form_compile_seconds_total", "Time of compilations.", ofExecutor)
	metricLoading   = counter(rewritten, "heddle_form_load_seconds_total", "Time of loading forms.", ofExecutor)
	metricWorkers   = counter(rewritten, "heddle_compiler_starts_total", "Compiler processes started.", ofExecutor)

	metricGraphs         = gauge(graphs, "heddle_graphs", "Graphs that executors hold for clients.", ofExecutor)
	metricGraphNodes     = gauge(graphs, "heddle_graph_nodes", "Nodes of those.", ofExecutor)
	metricGraphLaunches  = counter(graphs, "heddle_graph_launches_total", "Launches of graphs; each is one op.", ofExecutor)
	metricGraphKernels   = counter(graphs, "heddle_graph_kernels_total", "Kernels in them, which heddle_kernel_ops_total counts too.", ofExecutor)
	metricJoinedLaunches = counter(graphs, "heddle_joined_graph_launches_total", "Launches of graphs that went with other clients' as one word (heddle_words_total, path joined).", ofExecutor)
	metricJoinedKernels  = counter(graphs, "heddle_joined_graph_kernels_total", "Kernels in those.", ofExecutor)
	metricJoinedNodesOne = counter(graphs, "heddle_joined_graph_coalesced_nodes_total", "Launches in joined graphs that did the same kernel for several clients.", ofExecutor)
	metricJoinedOne      = counter(graphs, "heddle_joined_graph_coalesced_kernels_total", "Kernels of joined graphs that those did.", ofExecutor)
	metricJoinedWords    = gauge(graphs, "heddle_graph_words", "Words of several clients' graphs that can be issued.", ofExecutor)
	metricJoinedNodes    = gauge(graphs, "heddle_graph_word_nodes", "Nodes of all words of graphs that exist.", ofExecutor)
	metricJoinedMade     = counter(graphs, "heddle_graph_words_made_total", "Words of graphs that were made.", ofExecutor)
	metricJoinedRefused  = counter(graphs, "heddle_graph_word_refusals_total", "Words of graphs that could not be made.", ofExecutor)
	metricJoinedEvicted  = counter(graphs, "heddle_graph_word_evictions_total", "Words of graphs given up for others.", ofExecutor)
	metricJoinedUnpaid   = counter(graphs, "heddle_graph_words_unpaid_total", "Words of graphs given up because they were no faster than their graphs apart.", ofExecutor)
	metricJoinedTime     = counter(graphs, "heddle_graph_word_make_seconds_total", "Time of making words of graphs.", ofExecutor)
	metricGraphsRefused  = counter(graphs, "heddle_graph_refusals_total", "Graphs that executors did not take: their clients launch them natively.", ofExecutor)

	metricRunOps      = counter(sequences, "heddle_prepared_ops_total", "Ops that were issued in prepared graphs.", ofExecutor)
	metricRuns        = gauge(sequences, "heddle_prepared_runs", "Runs that are kept.", ofExecutor)
	metricRunsMade    = counter(sequences, "heddle_prepared_graphs_total", "Graphs that were made.", ofExecutor)
	metricRunsRefused = counter(sequences, "heddle_prepared_refusals_total", "Graphs that the driver did not make.", ofExecutor)
	metricRunsEvicted = counter(sequences, "heddle_prepared_evictions_total", "Runs given up for newer ones, or because they came no more as they were.", ofExecutor)
	metricRunsUnused  = counter(sequences, "heddle_prepared_unused_total", "Runs given up, or gone with their client, without ever having been issued.", ofExecutor)
	metricRunsTime    = counter(sequences, "heddle_prepared_make_seconds_total", "Time of making graphs.", ofExecutor)

	metricObjective = gauge(classes, "heddle_class_objective_seconds", "The class's latency_p99; 0 is none.", ofClass)
	metricRequests  = counter(classes, "heddle_requests_total", "Requests that ended.", ofClass)
	metricAttained  = counter(classes, "heddle_requests_attained_total", "Requests that met the objective that was in force when they began; all, without one.", ofClass)
	metricLatency   = histogram(classes, "heddle_request_latency_seconds", "From the arrival of a request's first op to the end of its last.", ofClass)
	metricQueue     = histogram(classes, "heddle_op_queue_seconds", "From when an op could have been issued to when it was.", ofClass)
	metricStagger   = histogram(classes, "heddle_op_stagger_seconds", "The part of it in which the op was held back for partners.", ofClass)
	metricWaits     = define(classes, prometheus.CounterValue, "heddle_op_waits_total", "Ops that were not issued when they could have been, by why.", ofClassBy).because(reasons.Codes(reasons.Wait))
	metricClassOps  = counter(classes, "heddle_class_ops_total", "Ops issued.", ofClass)
	metricClassJoin = counter(classes, "heddle_class_coalesced_ops_total", "Ops that shared a launch with others.", ofClass)
	metricGPUTime   = counter(classes, "heddle_gpu_seconds_total", "Estimate of the time that the ops kept the GPU busy.", ofClass)

	metricPoller    = counter(schedulers, "heddle_poller_busy_seconds_total", "Time of the poller's rounds that found something to do.", ofExecutor)
	metricIssue     = counter(schedulers, "heddle_issue_busy_seconds_total", "Time of the issue threads in driver calls.", ofExecutor)
	metricReadyLook = counter(schedulers, "heddle_ready_waits_total", "Looks at an op that could not be issued yet.", ofExecutor)
	metricWakeups   = counter(schedulers, "heddle_client_wakeups_total", "Clients woken from their sleep.", ofExecutor)
	metricSleeps    = counter(schedulers, "heddle_poller_sleeps_total", "Times that the poller slept until a client rang.", ofExecutor)
)

// scrapeTimeout bounds the making of one answer; how long a scraper takes to read it does not count (promhttp buffers it).
const scrapeTimeout = 10 * time.Second

// metricsHandler serves /metrics from a registry of its own: nothing that a library registers comes along.
func (d *Daemon) metricsHandler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(d), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: 4, Timeout: scrapeTimeout})
}
