// CUDA graphs in the executor: captured, built and instantiated natively, then described once and launched there by number.
// Source: docs/protocol.md "Graphs"; CUDA driver API, "Graph Management".
#ifndef HEDDLE_GRAPH_H
#define HEDDLE_GRAPH_H

#include "../session.h"

// The nodes of a graph that the daemon knows by this id, as records one behind another, and their length; NULL: unknown. They stay
// as they are until every launch of the graph that was published is done. For finishing alone.
const unsigned char *heddle_graph_records(struct heddle_session *s, uint32_t id, uint64_t *bytes);
// [address, address+bytes) is about to be unmapped in the executor: it launches no graph any more whose copies or memsets name memory
// there, also when other memory comes to stand at that address. Graphs that name it are described anew.
void heddle_graph_memory_gone(struct heddle_session *s, uint64_t address, uint64_t bytes);
// A context was destroyed or reset, after the drain: its executable graphs are the driver's to judge from now on.
void heddle_graph_context_gone(CUcontext context);

#endif
