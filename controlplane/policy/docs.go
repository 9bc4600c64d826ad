package policy

import (
	"fmt"
	"strings"
)

// Docs is docs/policy.md: the schema, key by key.
func Docs() string {
	var b strings.Builder
	b.WriteString(`# Policies

Generated from controlplane/policy/keys.go by ` + "`go test ./controlplane/policy -run TestDocs -update`" + `; a test keeps it current.

An admin says in TOML which classes of clients there are, what each is promised, and who belongs to which.
The daemon reads ` + "`/etc/heddle/policy.toml`" + ` when it runs as root, ` + "`$XDG_CONFIG_HOME/heddle/policy.toml`" + ` (` + "`~/.config`" + `) otherwise, and then the
` + "`*.toml`" + ` files of the folder ` + "`policy.d`" + ` beside it, by name. A key that several files set has the value of the last; rules of drop-in files are
tried before those of the main file. Heddle never writes these files. A change is validated, compared and applied, or what was there stays.

` + "```toml" + `
schema_version = 1

[class.interactive]
latency_p99 = "20ms"
priority = 100
max_queue_delay = "300us"
allow_uid = [1000]

[class.batch]
priority = -10
min_share = 0.10

[[match]]
class = "interactive"
cgroup = "/kubepods/**"

[[match]]
class = "interactive"
label = "resnet-*"

[[match]]
class = "batch"
` + "```" + `

| command | does |
|---|---|
| ` + "`heddle policy check [FILE]`" + ` | every mistake at once, with file, line, column |
| ` + "`heddle policy show [--origin]`" + ` | the policy, and where each value was set |
| ` + "`heddle policy diff [FILE]`" + ` | what would change in the daemon |
| ` + "`heddle policy apply`" + ` | has the daemon read its files now (it also notices changes by itself) |
| ` + "`heddle policy test --pid PID`" + ` | the class of a process, and why |

Rules: the keys of a ` + "`[[match]]`" + ` are ANDed, the first rule that fits decides, without one the client is in ` + "`daemon.default_class`" + `. ` + "`label` and `exe`" + ` are the
client's own choice: a rule that asks for nothing else selects only clients that its class allows (` + "`allow_uid`, `allow_cgroup`" + `).
Durations are written ` + "`\"300us\"`, `\"20ms\"`, `\"2s\"`" + `. The class ` + "`default`" + ` always exists. "live": in force at once; "new clients": for clients that connect from then on.

`)
	table(&b, "`[daemon]`", DaemonKeys)
	table(&b, "`[class.NAME]`", ClassKeys)
	table(&b, "`[[match]]`", MatchKeys)
	return b.String()
}

func table[S any](b *strings.Builder, title string, keys []Key[S]) {
	fmt.Fprintf(b, "## %s\n\n| key | value | default | in force | meaning |\n|---|---|---|---|---|\n", title)
	for i := range keys {
		k := &keys[i]
		def := "–"
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s |\n", k.Name, k.Unit, def, k.Live, k.Doc)
	}
	fmt.Fprintln(b)
}
