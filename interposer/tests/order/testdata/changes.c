// Changes of executable graphs, one behaviour a run: changes NAME. Updates, several graphs of one executable one, their end.
#include "graphfake.h"

static void changes(void) {
  struct graph *g = graph_new();
  struct node *k = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *m = add(g, CU_GRAPH_NODE_TYPE_MEMSET), *c = add(g, CU_GRAPH_NODE_TYPE_MEMCPY);
  edge(g, k, m);
  edge(g, m, c);
  k->cluster = 2;
  CUgraphExec x = make(g);
  CUDA_KERNEL_NODE_PARAMS p = k->kernel;
  p.gridDimX = 6;
  OK(heddle_hook_cuGraphExecKernelNodeSetParams_v2(x, (CUgraphNode)k, &p));
  CUDA_MEMSET_NODE_PARAMS s = m->set;
  s.value = 9;
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)m, &s, CONTEXT));
  CUDA_MEMCPY3D q = c->copy;
  q.dstDevice += 512;
  OK(heddle_hook_cuGraphExecMemcpyNodeSetParams(x, (CUgraphNode)c, &q, CONTEXT));
  CHECK(given == 1, "a change alone gives nothing");
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 2, "%u given", given);
  const struct heddle_wire_launch *w = body(record_of(2, 1));
  CHECK(w->grid_x == 6 && w->cluster_x == 2 && (w->flags & HEDDLE_WIRE_LAUNCH_FLAG_CLUSTER) != 0, "the kernel keeps its attributes");
  CHECK(((const struct heddle_wire_memset *)body(record_of(2, 2)))->value == 9, "the memset");
  CHECK(((const struct heddle_wire_copy *)body(record_of(2, 3)))->dst == q.dstDevice, "the copy");
  OK(heddle_hook_cuGraphNodeSetEnabled(x, (CUgraphNode)m, 0));
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 3 && record_of(3, 2)->kind == HEDDLE_WIRE_KIND_EVENT && dep(record_of(3, 3), 0) == 2, "a disabled node joins");
  s.value = 10; // while it is disabled
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)m, &s, CONTEXT));
  OK(heddle_hook_cuGraphNodeSetEnabled(x, (CUgraphNode)m, 1));
  CUgraphNodeParams any;
  memset(&any, 0, sizeof any);
  any.type = CU_GRAPH_NODE_TYPE_KERNEL;
  any.kernel = (CUDA_KERNEL_NODE_PARAMS_v3){.func = KERNEL, .gridDimX = 8, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 32, .blockDimY = 1, .blockDimZ = 1, .kernelParams = parameters};
  OK(heddle_hook_cuGraphExecNodeSetParams(x, (CUgraphNode)k, &any));
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 4 && ((const struct heddle_wire_memset *)body(record_of(4, 2)))->value == 10, "enabled again");
  CHECK(((const struct heddle_wire_launch *)body(record_of(4, 1)))->grid_x == 8, "by the call for any node");
  // To something that cannot be mirrored, and back.
  s.dst = FREED_BASE;
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)m, &s, CONTEXT));
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 4 && natively == 1, "freed memory");
  s.dst = DEVICE_BASE;
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)m, &s, CONTEXT));
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(natively == 1 && last_graph == 4, "the graph that the executor still has: %u, %u native launches", last_graph, natively);
  // A node that we cannot name: native for good.
  OK(heddle_hook_cuGraphNodeSetEnabled(x, (CUgraphNode)0x99, 0));
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 2 && drops == 4, "%u native launches, %u drops", natively, drops);
  graph_free(g);
}

static void update(void) {
  struct graph *g = graph_new(), *h = graph_new();
  struct node *old = add(g, CU_GRAPH_NODE_TYPE_KERNEL), *new = add(h, CU_GRAPH_NODE_TYPE_KERNEL);
  new->kernel.gridDimX = 5;
  CUgraphExec x = make(g);
  CUgraphExecUpdateResultInfo info;
  hold_back = true;
  go(x, CU_STREAM_LEGACY);
  execute();
  OK(heddle_hook_cuGraphExecUpdate_v2(x, (CUgraph)h, &info));
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(given == 2 && launched[1] == 1 && launched[2] == 1, "launches under way keep the old graph");
  CHECK(((const struct heddle_wire_launch *)body(record_of(2, 1)))->grid_x == 5, "the new one");
  CUDA_KERNEL_NODE_PARAMS p = new->kernel;
  p.gridDimX = 4;
  OK(heddle_hook_cuGraphExecKernelNodeSetParams_v2(x, (CUgraphNode)new, &p));
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 3 && ((const struct heddle_wire_launch *)body(record_of(3, 1)))->grid_x == 4, "a node of the graph given last");
  OK(heddle_hook_cuGraphExecKernelNodeSetParams_v2(x, (CUgraphNode)old, &p)); // which node that is the driver alone knows
  hold_back = false;
  execute();
  heddle_store_release32(&fake_session->lanes[0].done, 3);
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 1, "%u native launches", natively);
  // A graph with a disabled node: whether it stays so after an update the driver alone knows.
  CUgraphExec y = make(h);
  OK(heddle_hook_cuGraphNodeSetEnabled(y, (CUgraphNode)new, 0));
  OK(heddle_hook_cuGraphExecUpdate_v2(y, (CUgraph)h, &info));
  go(y, CU_STREAM_LEGACY);
  CHECK(natively == 2, "%u native launches", natively);
  graph_free(g);
  graph_free(h);
}

static void child(void) {
  struct graph *outer = graph_new(), *inner = graph_new(), *other = graph_new();
  struct node *n = add(inner, CU_GRAPH_NODE_TYPE_MEMSET), *c = add(outer, CU_GRAPH_NODE_TYPE_GRAPH);
  add(other, CU_GRAPH_NODE_TYPE_MEMSET)->set.value = 77;
  c->child = (CUgraph)inner;
  CUgraphExec x = make(outer);
  CUDA_MEMSET_NODE_PARAMS s = n->set;
  s.value = 55;
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)n, &s, CONTEXT)); // a node within
  go(x, CU_STREAM_LEGACY);
  CHECK(((const struct heddle_wire_memset *)body(record_of(2, 1)))->value == 55, "a node of the graph within");
  OK(heddle_hook_cuGraphExecChildGraphNodeSetParams(x, (CUgraphNode)c, (CUgraph)other));
  go(x, CU_STREAM_LEGACY);
  CHECK(given == 3 && ((const struct heddle_wire_memset *)body(record_of(3, 1)))->value == 77, "the graph within");
  OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)n, &s, CONTEXT));
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 1, "a node that nobody names any more");
  graph_free(outer);
  graph_free(inner);
  graph_free(other);
}

// A program that changes between a few sets of addresses finds them all there.
static void alternating(void) {
  struct graph *g = graph_new();
  struct node *n = add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  CUgraphExec x = make(g);
  CUDA_MEMSET_NODE_PARAMS s = n->set;
  for (unsigned i = 0; i < 60; i++) {
    s.value = i % 3;
    OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)n, &s, CONTEXT));
    go(x, CU_STREAM_LEGACY);
    execute();
  }
  CHECK(given == 4 && drops == 0 && natively == 0, "%u given, %u dropped, %u native launches", given, drops, natively);
  OK(heddle_hook_cuGraphExecDestroy(x));
  CHECK(drops == 4, "%u dropped", drops);
  graph_free(g);
}

// One that is another one at each launch is native, until it stays for two.
static void hasty(void) {
  struct graph *g = graph_new();
  struct node *n = add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  CUgraphExec x = make(g);
  CUDA_MEMSET_NODE_PARAMS s = n->set;
  for (unsigned i = 0; i < 60; i++) {
    s.value = 100 + i;
    OK(heddle_hook_cuGraphExecMemsetNodeSetParams(x, (CUgraphNode)n, &s, CONTEXT));
    go(x, CU_STREAM_LEGACY);
    execute();
  }
  uint32_t had = given, ran = natively;
  CHECK(had < 12 && ran > 45 && fake_native_counts[HEDDLE_NATIVE_GRAPH_CHANGES] == ran, "%u given, %u native launches", had, ran);
  for (unsigned i = 0; i < 3; i++) go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(given == had + 1 && launched[given] == 3 && natively == ran, "%u given, launched %u times", given, launched[given]);
  graph_free(g);
}

static void drop(void) {
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  hold_back = true;
  CUgraphExec x = make(g);
  uint64_t bytes;
  go(x, CU_STREAM_LEGACY);
  OK(heddle_hook_cuGraphExecDestroy(x)); // while the launch is under way
  CHECK(drops == 1 && heddle_graph_records(fake_session, 1, &bytes) != NULL, "its nodes are needed until the launch is done");
  hold_back = false;
  execute();
  x = make(g);
  CHECK(heddle_graph_records(fake_session, 1, &bytes) == NULL, "they are gone with the next");
  heddle_graph_context_gone(CONTEXT);
  CHECK(drops == 2, "%u drops", drops);
  go(x, CU_STREAM_LEGACY);
  CHECK(natively == 1, "the driver judges a graph of a context that is gone");
  for (int i = 0; i < 3000; i++) { // an endless stream of new graphs
    x = make(g);
    go(x, CU_STREAM_LEGACY);
    execute();
    OK(heddle_hook_cuGraphExecDestroy(x));
  }
  CHECK(given == 3002 && drops == 3002 && heddle_graph_records(fake_session, 3001, &bytes) == NULL, "%u given, %u dropped", given, drops);
  CUgraphExec many[HEDDLE_WIRE_MAX_GRAPHS + 1];
  for (uint32_t i = 0; i <= HEDDLE_WIRE_MAX_GRAPHS; i++) many[i] = make(g);
  CHECK(given == 3002 + HEDDLE_WIRE_MAX_GRAPHS, "%u given", given);
  go(many[HEDDLE_WIRE_MAX_GRAPHS], CU_STREAM_LEGACY);
  CHECK(fake_native_counts[HEDDLE_NATIVE_GRAPH_REFUSED] == 1, "one more than a session may have");
  for (uint32_t i = 0; i <= HEDDLE_WIRE_MAX_GRAPHS; i++) OK(heddle_hook_cuGraphExecDestroy(many[i]));
  graph_free(g);
}

// Behind another executor a graph is asked about once; one that it did not take is given anew, and is native when that fails too.
static void restarted(void) {
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  CUgraphExec x = make(g);
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(asked == 0, "%u questions", asked);
  fake_session->status->epoch++;
  for (int i = 0; i < 3; i++) go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(asked == 1 && given == 1 && launched[1] == 4, "%u questions, %u given, launched %u times", asked, given, launched[1]);
  fake_session->status->epoch++;
  refuse_known = 1;
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(asked == 2 && given == 2 && drops == 1 && launched[2] == 1 && natively == 0, "%u questions, %u given, %u dropped", asked, given, drops);
  fake_session->status->epoch++;
  refuse = 1;
  go(x, CU_STREAM_LEGACY);
  CHECK(asked == 3 && given == 2 && drops == 2 && natively == 1, "%u questions, %u given, %u dropped, natively %u", asked, given, drops, natively);
  graph_free(g);
}

// A context that others still use keeps its graphs; the last one that detaches takes them along.
static bool last_user;
static CUresult detach(CUcontext c) {
  CHECK(c == CONTEXT, "another context");
  if (last_user) fake_current = (CUcontext)0x10;
  return CUDA_SUCCESS;
}
static CUresult destroy_in_time(CUgraphExec x) {
  (void)x;
  CHECK(!last_user, "the driver has destroyed it with its context");
  return CUDA_SUCCESS;
}
static void detached(void) {
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  add(g, CU_GRAPH_NODE_TYPE_MEMSET)->set.dst = 0x1000; // stays native: a graph of its own
  heddle_real.cuCtxDetach = detach;
  heddle_real.cuGraphExecDestroy = destroy_in_time;
  CUgraphExec x = make(g);
  go(x, CU_STREAM_LEGACY);
  execute();
  OK(heddle_hook_cuCtxDetach(CONTEXT));
  CHECK(drops == 0, "%u drops while others use the context", drops);
  go(x, CU_STREAM_LEGACY);
  execute();
  CHECK(launched[1] == 2 && natively == 0, "launched %u times, natively %u", launched[1], natively);
  last_user = true;
  OK(heddle_hook_cuCtxDetach(CONTEXT));
  CHECK(drops == 1, "%u drops", drops);
  graph_free(g);
}

// What the program gave to a graph to keep is let go of when no launch needs it any more.
static CUresult retain(CUgraph g, CUuserObject o, unsigned n, unsigned f) { (void)g, (void)o, (void)n, (void)f; return CUDA_SUCCESS; }
static CUresult destroy_at_rest(CUgraphExec x) {
  (void)x;
  CHECK(launched[1] == 1, "the launch is still under way");
  return CUDA_SUCCESS;
}
static CUresult update_at_rest(CUgraphExec x, CUgraph g, CUgraphExecUpdateResultInfo *i) {
  (void)g, (void)i;
  return destroy_at_rest(x);
}
static void objects(void) {
  struct graph *g = graph_new();
  add(g, CU_GRAPH_NODE_TYPE_MEMSET);
  heddle_real.cuGraphRetainUserObject = retain;
  heddle_real.cuGraphExecUpdate_v2 = update_at_rest;
  heddle_real.cuGraphExecDestroy = destroy_at_rest;
  OK(heddle_hook_cuGraphRetainUserObject((CUgraph)g, NULL, 1, 0));
  CUgraphExec x = make(g), y = make(g);
  CUgraphExecUpdateResultInfo info;
  go(x, CU_STREAM_LEGACY);
  OK(heddle_hook_cuGraphExecUpdate_v2(x, (CUgraph)g, &info));
  launched[1] = 0;
  go(x, CU_STREAM_LEGACY);
  OK(heddle_hook_cuGraphExecDestroy(x));
  OK(heddle_hook_cuGraphExecDestroy(y)); // never launched
  graph_free(g);
}

// Launches of one graph by several threads, while others change it, make and destroy graphs of their own, and the executor works.
static struct graph *shared_graph;
static CUgraphExec shared_exec;
static void *launcher(void *arg) {
  CUstream s = fake_stream(CU_STREAM_NON_BLOCKING);
  (void)arg;
  for (int i = 0; i < 2000; i++) go(shared_exec, s);
  return NULL;
}
static void *changer(void *arg) {
  CUDA_MEMSET_NODE_PARAMS s = shared_graph->node[0]->set;
  (void)arg;
  for (unsigned i = 0; i < 300; i++) {
    s.value = i % 7;
    OK(heddle_hook_cuGraphExecMemsetNodeSetParams(shared_exec, (CUgraphNode)shared_graph->node[0], &s, CONTEXT));
  }
  return NULL;
}
static void *maker(void *arg) {
  (void)arg;
  for (int i = 0; i < 300; i++) {
    CUgraphExec x = make(shared_graph);
    go(x, CU_STREAM_LEGACY);
    OK(heddle_hook_cuGraphExecDestroy(x));
  }
  return NULL;
}
static void threads(void) {
  pthread_t t[6];
  shared_graph = graph_new();
  add(shared_graph, CU_GRAPH_NODE_TYPE_MEMSET);
  shared_exec = make(shared_graph);
  start_executor();
  for (int i = 0; i < 6; i++) CHECK(pthread_create(&t[i], NULL, i < 3 ? launcher : i < 4 ? changer : maker, NULL) == 0, "thread");
  for (int i = 0; i < 6; i++) pthread_join(t[i], NULL);
  OK(heddle_hook_cuGraphExecDestroy(shared_exec));
  OK(heddle_order_drain(fake_session, NULL));
  stop_executor();
  CHECK(drops == given, "%u given, %u dropped", given, drops);
  graph_free(shared_graph);
}

int main(int argc, char **argv) {
  static const struct test all[] = {{"changes", changes}, {"update", update}, {"child", child}, {"alternating", alternating}, {"hasty", hasty}, {"drop", drop},
                                    {"restarted", restarted}, {"detached", detached}, {"objects", objects}, {"threads", threads}};
  return run_test(argc, argv, all, sizeof all / sizeof *all);
}
