package ptx

// Module is one PTX source.
type Module struct {
	Major, Minor int      // .version
	Target       []string // .target: sm_90a, debug, …
	AddressSize  int      // .address_size: 32 or 64 (64 when absent and .version ≥ 2.3 omitted it)
	Items        []Item   // everything at module level, in source order
	Funcs        []*Func  // the functions among Items, declarations without body included
	Vars         []*Var   // the variables among Items
}

// Item is something at module level: *Func, *Var or *Directive.
type Item interface{ item() }

// Stmt is something in a function body: *Inst, *Label, *Var, *Block or *Directive.
type Stmt interface{ stmt() }

// Func is a kernel (.entry) or device function (.func), or its declaration.
type Func struct {
	Pos     Pos
	Linkage []string // .visible, .extern, .weak, in source order, with the dot
	Entry   bool
	Name    string
	Ret     []*Var // return parameters of a .func
	Params  []*Var
	Attrs   []*Directive // .maxntid, .noreturn, .pragma, …
	Body    []Stmt
	HasBody bool // false for a declaration
}

// Var declares one variable: a register (or range of them), a parameter, or
// storage in a state space. "a, b" becomes two of them, Cont set on the second.
type Var struct {
	Pos     Pos
	Linkage []string
	Space   string  // ".reg", ".global", ".const", ".shared", ".local", ".param", ".tex", ".sreg"
	Bank    string  // of ".const[2]", before PTX 2.2: "2"; "" without
	Attr    string  // text inside .attribute( … ), "" without
	Align   int     // .align, 0 when absent
	Vec     string  // ".v2", ".v4", ".v8" or ""
	Type    string  // ".b32", ".pred", ".texref", …
	Ptr     bool    // parameter with .ptr
	PtrSpc  string  // space after .ptr, "" for generic
	PtrAln  int     // .align after .ptr
	Name    string  // with a range "%r<10>": the prefix "%r"
	Range   int     // number of registers of a range, 0 without
	Dims    []int64 // array dimensions; -1 for "[]"
	Init    *Init   // initialiser, nil without
	Cont    bool    // a later declarator of the same statement
}

// Init is an initialiser: a list in braces or one value.
type Init struct {
	Pos  Pos
	List []Init   // for braces
	Val  *Operand // otherwise; an Imm, Float or Sym operand
	// Field is set for "width = 4" of an opaque type (texref, samplerref, surfref).
	Field string
	// Mask is non-zero for "0xFF00(sym)": only these bits of the address,
	// shifted down.
	Mask    uint64
	Generic bool // generic(sym)
	Braces  bool
}

// Directive is any other dotted thing, kept as text: .pragma, .loc, .file,
// .section, .maxntid, .branchtargets, … ("@@DWARF" of PTX 1 is one, too.)
type Directive struct {
	Pos  Pos
	Name string // with the dot
	// Args are the values between commas or blanks, as written.
	Args []string
	// Text is everything between name and end, with one blank for any between two tokens.
	Text string
	// Raw is the text between braces for .section and the like.
	Raw string
	// Semi records whether a semicolon ended it.
	Semi bool
	// Proto is set for .callprototype.
	Proto *Func
}

// Label marks a place in a body.
type Label struct {
	Pos  Pos
	Name string
}

// Block is { … } in a body, a scope of its own.
type Block struct {
	Pos  Pos
	Body []Stmt
}

// Inst is one instruction.
type Inst struct {
	Pos  Pos
	Pred string // guard register, "" without
	PNeg bool   // @!p
	Op   string // opcode before the first dot
	Mods []string
	Args []Operand
}

// OperandKind says which fields of an Operand count.
type OperandKind uint8

// The kinds of operand.
const (
	Sym    OperandKind = iota // Name, with Comp (".x") and Off; Elems holds i of "name[i]", which counts elements: an Imm or a Sym
	Imm                       // Int (as written, sign applied), Unsigned for a U suffix
	Float                     // Bits; Width 32 (0f…), 64 (0d… or decimal)
	Vec                       // Elems: {a, b}
	Addr                      // [Elems…]: the first is Sym or Imm (with Off, OffReg), more for tensors and textures; Comp ".unified"
	List                      // (a, b) of a call
	Pair                      // a|b
	String                    // Name holds the text
)

// Operand is one operand of an instruction, or a part of one.
type Operand struct {
	Pos      Pos
	Kind     OperandKind
	Neg      bool // !p
	Minus    bool // -reg, of video instructions
	Name     string
	Comp     string // ".x", ".b0", ".h1", … with the dot
	Off      int64  // constant added to a symbol
	Zero     bool   // Off is 0 and written, "[%SP+0]": ptxas's debug code depends on it
	OffReg   string // register added to the base inside [ ]
	Int      int64
	Unsigned bool
	Bits     uint64
	Width    int
	Elems    []Operand
}

func (*Func) item()      {}
func (*Var) item()       {}
func (*Directive) item() {}

func (*Inst) stmt()      {}
func (*Label) stmt()     {}
func (*Var) stmt()       {}
func (*Block) stmt()     {}
func (*Directive) stmt() {}
