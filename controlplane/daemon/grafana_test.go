package daemon

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/heddle-gpu/heddle/shm"
)

const grafanaPath = "../../docs/grafana/heddle.json"

// grafana is what the test reads of a dashboard.
type grafana struct {
	Panels []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct {
			Expr, LegendFormat string
		}
	}
	Templating struct {
		List []struct {
			Name, Type, Definition string
		}
	}
	Annotations struct {
		List []struct{ Name, Expr string }
	}
}

// exported is what the exporter gives: the labels of each series, by its name.
func exported(body string) map[string]map[string]bool {
	series := regexp.MustCompile(`^([a-zA-Z_:][\w:]*)(\{.*\})? [^ ]+$`)
	label := regexp.MustCompile(`([a-zA-Z_]\w*)="(?:[^"\\]|\\.)*"`)
	out := map[string]map[string]bool{}
	for line := range strings.Lines(body) {
		m := series.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if out[m[1]] == nil {
			out[m[1]] = map[string]bool{"instance": true, "job": true} // Prometheus adds these
		}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			out[m[1]][l[1]] = true
		}
	}
	return out
}

// TestEveryQueryOfTheDashboardIsAnswered: every query parses, each metric in it is given by the exporter, with the labels asked for.
func TestEveryQueryOfTheDashboardIsAnswered(t *testing.T) {
	s := someStats()
	o := observe(t, s)
	o.client.must(t, shm.TypeKernel, shm.Encode(shm.Kernel{ImageID: o.client.image(t, "x")}), []byte("die"))
	o.scrape("heddle_executor_losses_total{")
	o.client.file.SetError(700, shm.ReasonFault)
	o.scrape("heddle_failed_clients{")
	known := exported(o.scrape("heddle_ops_total{"))
	b, err := os.ReadFile(grafanaPath)
	if err != nil {
		t.Fatal(err)
	}
	var g grafana
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	variables := []string{"__rate_interval", "__range"}
	queries := 0
	asked := map[string]bool{}
	check := func(where, expr, legend string) {
		queries++
		p := &promQL{text: expr, known: known, asked: asked}
		labels, err := p.parse()
		if err != nil {
			t.Errorf("%s: %s\n%v", where, expr, err)
			return
		}
		for _, m := range regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`).FindAllStringSubmatch(legend, -1) {
			if !slices.Contains(labels, m[1]) {
				t.Errorf("%s: the legend shows %s, the query gives %v", where, m[1], labels)
			}
		}
		for _, m := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(expr, -1) {
			if !slices.Contains(variables, m[1]) {
				t.Errorf("%s: no variable %s", where, m[1])
			}
		}
	}
	for _, v := range g.Templating.List {
		if v.Type == "query" {
			m := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(v.Definition)
			if m == nil {
				t.Errorf("variable %s: %s", v.Name, v.Definition)
				continue
			}
			check("variable "+v.Name, fmt.Sprintf("sum by (%s) (%s)", m[2], m[1]), "")
		}
		variables = append(variables, v.Name)
	}
	for _, a := range g.Annotations.List {
		check("annotation "+a.Name, a.Expr, "")
	}
	ids := map[int]bool{}
	for i, p := range g.Panels {
		if ids[p.ID] {
			t.Errorf("%s: another panel has its number", p.Title)
		}
		ids[p.ID] = true
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s asks nothing", p.Title)
		}
		for _, q := range g.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%s lies over %s", p.Title, q.Title)
			}
		}
		for _, target := range p.Targets {
			check(p.Title, target.Expr, target.LegendFormat)
		}
	}
	if queries < 30 {
		t.Errorf("only %d queries were seen", queries)
	}
	// What the dashboard is for must be on it.
	for _, name := range []string{
		"heddle_requests_attained_total", "heddle_request_latency_seconds_bucket", "heddle_class_objective_seconds", "heddle_op_queue_seconds_bucket", "heddle_op_stagger_seconds_sum",
		"heddle_word_width_bucket", "heddle_coalesced_ops_total", "heddle_form_refusals_total", "heddle_word_limits_total", "heddle_executor_losses_total",
		"heddle_failed_clients", "heddle_ring_used_bytes", "heddle_policy_last_reload_successful", "heddle_gpu_seconds_total",
	} {
		if !asked[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// TestTheCheckerOfQueriesRefuses: a check that takes everything is none.
func TestTheCheckerOfQueriesRefuses(t *testing.T) {
	known := exported("a_total{UUID=\"x\",uid=\"0\"} 1\nb{UUID=\"x\"} 1\nh_bucket{class=\"c\",le=\"1\"} 1\n")
	for expr, want := range map[string]string{
		`sum by (UUID) (rate(a_total{UUID=~"$gpu"}[5m])) / on (UUID) b`: "",
		`histogram_quantile(0.9, sum by (le) (rate(h_bucket[5m])))`:     "",
		`max(b) > 0`:                 "",
		`-b + 2 * (b)`:               "",
		`sum(c)`:                     "no metric c",
		`sum by (class) (b)`:         "no label class",
		`b{class="x"}`:               "no label class",
		`a_total`:                    "a counter without a range",
		`rate(b[5m])`:                "not a counter",
		`rate(a_total)`:              "a counter without a range",
		`sum(rate(a_total[5m]))[1m]`: "expected the end",
		`histogram_quantile(0.9, sum(rate(h_bucket[5m])))`: "without le",
		`sum(b`:     "expected",
		`fancy(b)`:  "no function fancy",
		`b{UUID=x}`: "expected a string",
		`b /`:       "expected",
		``:          "expected",
		`sum by (UUID) (b) / sum by (uid) (a_total{}[5m])`: "range",
	} {
		_, err := (&promQL{text: expr, known: known, asked: map[string]bool{}}).parse()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, expected %q", expr, err, want)
		}
	}
}

// promQL parses the part of Prometheus's language that the dashboard uses, and checks names and labels against what is exported.
type promQL struct {
	text  string
	at    int
	token string
	known map[string]map[string]bool
	asked map[string]bool
}

var promToken = regexp.MustCompile(`^(?:[a-zA-Z_:][\w:]*|\$\w+|"(?:[^"\\]|\\.)*"|\d+(?:\.\d+)?[smhd]?|=~|!~|!=|==|>=|<=|[-+*/%^(){}\[\],=<>])`)

// promRange are the functions that take a range, promSums the aggregations.
var (
	promRange = []string{"rate", "increase", "changes"}
	promSums  = []string{"sum", "max", "min", "avg", "count"}
)

func (p *promQL) next() {
	for p.at < len(p.text) && strings.ContainsRune(" \n\t", rune(p.text[p.at])) {
		p.at++
	}
	p.token = promToken.FindString(p.text[p.at:])
	if p.token == "" && p.at < len(p.text) {
		p.token = p.text[p.at:]
	}
	p.at += len(p.token)
}

func (p *promQL) expect(token string) {
	if p.token != token {
		panic(fmt.Errorf("expected %q at %q", token, p.token+p.text[p.at:]))
	}
	p.next()
}

// parse gives the labels of the result.
func (p *promQL) parse() (labels []string, err error) {
	defer func() {
		if r := recover(); r != nil {
			var ok bool
			if err, ok = r.(error); !ok {
				panic(r)
			}
		}
	}()
	p.next()
	labels = p.binary()
	if p.token != "" {
		return nil, fmt.Errorf("expected the end at %q", p.token+p.text[p.at:])
	}
	return labels, nil
}

func (p *promQL) binary() []string {
	labels := p.unary()
	for slices.Contains([]string{"+", "-", "*", "/", "%", "^", ">", "<", ">=", "<=", "==", "!=", "and", "or", "unless"}, p.token) {
		p.next()
		if p.token == "on" || p.token == "ignoring" {
			p.next()
			p.labels()
		}
		p.unary()
	}
	return labels
}

func (p *promQL) unary() []string {
	if p.token == "-" {
		p.next()
	}
	switch {
	case p.token == "(":
		p.next()
		labels := p.binary()
		p.expect(")")
		return labels
	case regexp.MustCompile(`^\d`).MatchString(p.token):
		p.next()
		return []string{}
	case regexp.MustCompile(`^[a-zA-Z_]`).MatchString(p.token):
		name := p.token
		p.next()
		if p.token == "(" || p.token == "by" {
			return p.call(name)
		}
		return p.selector(name, "")
	}
	panic(fmt.Errorf("expected an expression at %q", p.token+p.text[p.at:]))
}

func (p *promQL) labels() (names []string) {
	p.expect("(")
	for p.token != ")" {
		names = append(names, p.token)
		p.next()
		if p.token == "," {
			p.next()
		}
	}
	p.next()
	return names
}

func (p *promQL) call(name string) []string {
	switch {
	case slices.Contains(promSums, name):
		by := []string{}
		if p.token == "by" {
			p.next()
			by = p.labels()
		}
		p.expect("(")
		given := p.binary()
		p.expect(")")
		for _, l := range by {
			if !slices.Contains(given, l) {
				panic(fmt.Errorf("no label %s in what %s is taken of: %v", l, name, given))
			}
		}
		return by
	case slices.Contains(promRange, name):
		p.expect("(")
		metric := p.token
		p.next()
		labels := p.selector(metric, name)
		p.expect(")")
		return labels
	case name == "histogram_quantile":
		p.expect("(")
		p.unary()
		p.expect(",")
		labels := p.binary()
		p.expect(")")
		if !slices.Contains(labels, "le") {
			panic(fmt.Errorf("histogram_quantile without le: %v", labels))
		}
		return slices.DeleteFunc(slices.Clone(labels), func(l string) bool { return l == "le" })
	case name == "time":
		p.expect("(")
		p.expect(")")
		return []string{}
	}
	panic(fmt.Errorf("no function %s", name))
}

// selector reads {label="value", …}[range] of a metric; ranged names the function that it is for.
func (p *promQL) selector(name, ranged string) []string {
	labels := p.known[name]
	if labels == nil {
		panic(fmt.Errorf("no metric %s", name))
	}
	p.asked[name] = true
	if p.token == "{" {
		p.next()
		for p.token != "}" {
			if !labels[p.token] {
				panic(fmt.Errorf("no label %s of %s", p.token, name))
			}
			p.next()
			if !slices.Contains([]string{"=", "=~", "!=", "!~"}, p.token) {
				panic(fmt.Errorf("expected a comparison at %q", p.token))
			}
			p.next()
			if !strings.HasPrefix(p.token, `"`) {
				panic(fmt.Errorf("expected a string at %q", p.token))
			}
			p.next()
			if p.token == "," {
				p.next()
			}
		}
		p.next()
	}
	counter := regexp.MustCompile(`_(total|bucket|sum|count)$`).MatchString(name)
	switch {
	case counter && (ranged == "" || p.token != "["):
		panic(fmt.Errorf("%s is a counter without a range and rate or increase", name))
	case !counter && (ranged == "rate" || ranged == "increase"):
		panic(fmt.Errorf("%s is not a counter", name))
	}
	if ranged != "" {
		p.expect("[")
		p.next()
		p.expect("]")
	}
	all := []string{}
	for l := range labels {
		all = append(all, l)
	}
	return all
}
