// Package reasons is the one list of codes that say why: why an op waited, why a launch did not hold more, why a kernel has no
// rewritten form, why something runs natively, why a client got an error. heddle explain, metrics (the label reason), traces and
// docs/reasons.md have them from here; tests compare the list with the constants of whoever gives a code.
package reasons

// Group is what a code answers.
type Group string

// Groups.
const (
	Wait    Group = "wait"    // why an op was not issued when it could have been
	Apart   Group = "apart"   // why a launch did not hold more kernels
	Outside Group = "outside" // why an op of a client that is confined to a part of the multiprocessors runs on all of them
	PTX     Group = "ptx"     // why a kernel's PTX is not known, so that it has no rewritten form
	Rewrite Group = "rewrite" // why it is not rewritten
	Compile Group = "compile" // why the rewritten kernel is not there
	Native  Group = "native"  // why a client's process runs something natively
	Session Group = "session" // why a client got an error that stays
)

// Questions are the groups in the order of the documentation, each as the question that its codes answer, and where they appear.
var Questions = []struct {
	Group    Group
	Question string
	Where    string
}{
	{Wait, "Why was an op not issued when it could have been?",
		"`heddle explain CLIENT`, `heddle record`, `heddle_op_waits_total`; traces have no `order` and no `admission`, which come before"},
	{Apart, "Why did a launch not hold more kernels?", "`heddle kernels`, `heddle explain KERNEL`, `heddle_word_limits_total`"},
	{Outside, "Why does an op of a confined client (`partition`) run on all multiprocessors?",
		"`heddle explain CLIENT`, `heddle_outside_partition_ops_total`"},
	{PTX, "Why is a kernel's PTX not known?",
		"`heddle kernels`, `heddle explain KERNEL`, `heddle_form_refusals_total`; [harvest.md](harvest.md)"},
	{Rewrite, "Why is a kernel not rewritten?", "the same; [coalescing.md](coalescing.md)"},
	{Compile, "Why is a rewritten kernel not there?", "the same; [compiler.md](compiler.md)"},
	{Native, "Why does a client's process run something natively?",
		"its own log (`HEDDLE_LOG=stderr`, `HEDDLE_LOG=stats` counts them); [interposer.md](interposer.md)"},
	{Session, "Why did a client get an error that stays?",
		"`heddle ps --json`, `heddle explain CLIENT`, `heddle record`, `heddle_failed_clients`"},
}

// Reason is one code: what it means, and what can be done, if anything.
type Reason struct {
	Group    Group
	Code     string
	Sentence string
}

// All is the list, in the order of the documentation. Codes are unique within a group; too-large stands in two.
var All = []Reason{
	{Wait, "order", "It was its stream's first, and an event that it waits for, or a copy of its own process, was not there yet."},
	{Wait, "admission", "Its client had `max_queue_size` ops waiting; counted once each time the client was stopped."},
	{Wait, "priority", "Ops of a class of larger priority went first."},
	{Wait, "share", "Ops of a class below its `min_share` went first."},
	{Wait, "slack", "Ops of its class, or of one of equal priority, had less slack, or were of a much shorter request while its own had slack."},
	{Wait, "window", "As much was in flight as leaves the chip free soon for a more urgent op (`max_wait`)."},
	{Wait, "gather", "It was held because ops to join it with were expected (`max_queue_delay`)."},
	{Wait, "room", "The issue threads had enough to do."},
	{Wait, "slices", "It takes longer than a more urgent class may wait, so it was issued in slices of its blocks, between which more urgent ops go."},
	{Wait, "company", "Measured, it slows what runs: a request of a more urgent class that it would have delayed, or kernels beside which it takes longer than behind them."},

	{Apart, "alone", "Nobody else had an op of this kernel, or a graph that could join this one, ready."},
	{Apart, "no-form", "There is no rewritten kernel, or not yet: it is made when several clients launch the kernel at about the same time."},
	{Apart, "shape", "Others had ops of it ready, with another grid, block or shared memory than a form can join."},
	{Apart, "full", "The launch held as many as the form takes; a larger form is made when this goes on. A CUDA graph: too many others meet already."},
	{Apart, "cost", "More would not have paid: the chip was full, or instances took longer in such company. A CUDA graph: it is large or takes long, or it was measured how long it takes by itself."},
	{Apart, "priority", "Others had ops of it ready at another level of urgency."},
	{Apart, "excluded", "Ops of cooperative launches are never joined, nor those of a client that faulted in company, nor, while a client uses several streams, what follows a kernel without forms, or a graph, and what stands beside a graph that went with others'."},
	{Apart, "class", "Ops of its class are never joined (`coalesce = false`)."},
	{Apart, "straggler", "Its client's ops take several times as long as they should, or may: others would wait for them (`straggler = \"evict\"`)."},
	{Apart, "company", "Measured, these ops and others that were ready slow each other more than one launch gains, or a more urgent one would be slowed."},
	{Apart, "no-word", "A CUDA graph: there is no word of it and of the other clients' graphs that were ready, or not yet: one is made when they are launched at about the same time, several times."},
	{Apart, "parts", "A CUDA graph: it was issued in parts, between which more urgent ops go."},
	{Apart, "unpaid", "Measured, all clients together get more done while each kernel goes by itself; or that is being measured for a moment."},

	{Outside, "graph", "It is a CUDA graph: the driver runs a graph's kernels where they belong, and they belong to the whole GPU."},
	{Outside, "refused", "The driver refuses its kernel on a part of the multiprocessors and takes it on all, as it does large clusters and cooperative launches that fill the GPU."},

	{PTX, "bad-image", "The image is not understood, or has no code for the device."},
	{PTX, "no-kernel", "The image's code has no kernel of that name."},
	{PTX, "no-ptx", "Nobody has PTX for this machine code; the vendor's libraries ship none for most devices."},
	{PTX, "other-architecture", "The fat binary's PTX is for another architecture than its machine code."},
	{PTX, "ambiguous", "Several different texts of the fat binary could be the one."},
	{PTX, "entry-missing", "PTX was found, but does not define the kernel."},
	{PTX, "other-parameters", "PTX was found, but the kernel's parameters are laid out differently there."},
	{PTX, "too-large", "PTX, a file or a folder exceeds the bounds."},
	{PTX, "unreadable", "A file that should have the PTX cannot be read, or is no regular file."},
	{PTX, "bad-ptx", "PTX was found, but is not understood."},

	{Rewrite, "no-entry", "The module does not define the kernel."},
	{Rewrite, "malformed", "An operand means nothing here, such as an undeclared name."},
	{Rewrite, "reserved-name", "It uses names of rewritten modules: it has been rewritten already."},
	{Rewrite, "target", "It is for something older than sm_70, for an unknown target, or has 32-bit addresses."},
	{Rewrite, "targets-differ", "It was to be packed with one for another architecture."},
	{Rewrite, "mapping", "It was to be packed by z, where blocks of different kernels cannot be told apart."},
	{Rewrite, "parameters-too-large", "The parameters of two instances do not fit into one launch."},
	{Rewrite, "parameter-use", "It uses a parameter otherwise than by loading it or taking its address."},
	{Rewrite, "client-globals", "It uses a variable that belongs to each client, and the form was asked for without such."},
	{Rewrite, "global-use", "It uses such a variable in a way that an address passed at launch cannot replace."},
	{Rewrite, "cluster", "It has clusters of several layers in z, or any clusters by table."},
	{Rewrite, "cooperative", "It synchronises its whole grid (`%envreg`), so all its blocks must be on the chip at once."},
	{Rewrite, "spin-wait", "It waits in a loop for a value that another block stores."},
	{Rewrite, "special-register", "It reads a register that tells one launch or processor from another."},
	{Rewrite, "special-use", "It reads its block's number otherwise than by a move or a conversion."},
	{Rewrite, "launch-control", "Its blocks take over other blocks of the grid (`clusterlaunchcontrol`)."},
	{Rewrite, "texture", "It uses textures, surfaces or samplers, whose handles belong to the client's context."},
	{Rewrite, "device-runtime", "It calls `printf`, `malloc`, `free`, or launches kernels: their buffers belong to the client's context."},
	{Rewrite, "external-function", "It calls a function of another module."},
	{Rewrite, "directive", "It has a directive that is not understood."},
	{Rewrite, "alias", "It calls a function through `.alias`."},
	{Rewrite, "entry-address", "It calls a kernel, or takes a kernel's address."},
	{Rewrite, "indirect-call", "It calls a function that would need more parameters through an address."},
	{Rewrite, "exit-in-function", "It ends threads inside a device function, where they would not be counted."},
	{Rewrite, "async-store", "It stores to global memory in a way that no instruction can wait for."},
	{Rewrite, "block-size", "It was to be packed with one that has no block shape in common."},
	{Rewrite, "setmaxnreg", "It was to be packed with one under other limits, and divides registers among warps."},
	{Rewrite, "too-large", "It, or the rewritten module, exceeds a bound of the rewriter."},

	{Compile, "assembler", "The driver's compiler does not take the PTX."},
	{Compile, "numerics", "Compiled here, the kernel's arithmetic would, or might, differ in its last bits from the client's own code."},
	{Compile, "compiler-crashed", "The process that compiled it ended, twice."},
	{Compile, "compiler-timeout", "The process that compiled it took too long, twice."},
	{Compile, "compiler-memory", "The process that compiled it needed too much memory, twice."},
	{Compile, "compiler-garbage", "The process that compiled it answered nonsense, twice."},
	{Compile, "compiler-not-started", "The process that compiles could not be started, or not open the device."},
	{Compile, "compiler-backlog", "Too many forms were asked for and not made yet."},
	{Compile, "compiler-absent", "The executor was started without a compiler, as HEDDLE_COALESCE=0 has it."},
	{Compile, "image-too-large", "The images have more than 256 MiB."},
	{Compile, "load", "The driver does not load the form."},
	{Compile, "attributes", "The form cannot have the attributes that clients set on the original."},
	{Compile, "globals-unknown", "The driver does not tell where a client's variable is."},
	{Compile, "forms-full", "The executor has loaded as many forms as it may."},
	{Compile, "internal", "A fault of Heddle's own, described in the detail; please report it."},

	{Native, "no-daemon", "No daemon answered, or one of another version: `heddle doctor`."},
	{Native, "disabled", "`HEDDLE_DISABLE=1` is set."},
	{Native, "tool", "A profiler, debugger or injection library is there; `HEDDLE_FORCE=1` forwards nevertheless."},
	{Native, "capture", "The stream was capturing a graph."},
	{Native, "graph", "The CUDA graph holds a node that stays native (conditional, external semaphore, memory operations of another context), more memory operations than pay to cut it at, or is launched by the device."},
	{Native, "graph-host", "The CUDA graph holds more host functions than pay to cut it at."},
	{Native, "graph-memory", "The CUDA graph allocates or frees memory."},
	{Native, "graph-event", "The CUDA graph records an event and waits for the same one, or holds more events than pay to cut it at."},
	{Native, "graph-refused", "The daemon or the executor refused the CUDA graph, it is too large, or the process has too many."},
	{Native, "graph-changes", "The CUDA graph is another one at nearly every launch."},
	{Native, "unknown-code", "The function's image was never seen."},
	{Native, "refused-code", "The executor refused the kernel (`printf`, textures, device `malloc`, dynamic parallelism)."},
	{Native, "globals", "It has writable device variables that could not be mirrored."},
	{Native, "host-registered", "A parameter points into memory that the process registered itself."},
	{Native, "foreign-memory", "Managed, imported or array memory, or memory of another device."},
	{Native, "attribute", "A launch attribute is not forwarded."},
	{Native, "argument", "The driver itself must judge the arguments."},
	{Native, "lanes", "All lanes are in use, or the stream is one of a green context."},
	{Native, "straggler", "Its ops slow others even one at a time, so the executor sent it to its own context for a while (`straggler = \"own-context\"`)."},
	{Native, "closed", "The session is closed: the process finishes alone."},

	{Session, "device-fault", "A kernel of the client brought the GPU's context down."},
	{Session, "in-doubt", "An executor was lost while ops of the client were under way that cannot be repeated."},
	{Session, "bad-record", "The client's ring holds something that makes no sense."},
	{Session, "overrun", "The client's positions in its ring make no sense."},
	{Session, "lost-globals", "An executor was lost, and with it the values of the client's device variables."},
	{Session, "launch-refused", "The driver refused an op of the client."},
}

// Sentence explains a code of a group; "" when it is not in the list.
func Sentence(g Group, code string) string {
	for i := range All {
		if All[i].Group == g && All[i].Code == code {
			return All[i].Sentence
		}
	}
	return ""
}

// NoForm explains why a kernel has no rewritten form, whoever said so.
func NoForm(code string) string {
	for _, g := range []Group{Rewrite, PTX, Compile} {
		if s := Sentence(g, code); s != "" {
			return s
		}
	}
	return ""
}

// Codes are the codes of a group, in the list's order.
func Codes(g Group) []string {
	var out []string
	for i := range All {
		if All[i].Group == g {
			out = append(out, All[i].Code)
		}
	}
	return out
}
