// Traces: whether a statement may leave something in its session that the next borrower would see.
//
// For drivers that cannot reset a session: one that was only asked harmless things needs no more
// than a rollback, any other one is closed. Errs on the side of closing: what is not recognised as
// harmless leaves traces.
// Thread rule: pure.

#pragma once

#include <string_view>

#include "defib/connection/classify.h"

namespace defib::connection {

// The text may hold several statements.
bool leaves_traces(Engine engine, std::string_view sql);

// Whether a statement begins or ends a transaction (BEGIN, START TRANSACTION, COMMIT, END, ROLLBACK
// without TO, ABORT, SAVE TRAN is none of them), which inside a Transaction only the Transaction
// may.
bool controls_transaction(std::string_view sql);

}  // namespace defib::connection
