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

// Why a statement may not be sent inside a Transaction; empty: it may. Only the Transaction begins
// and ends one (BEGIN, START TRANSACTION, COMMIT, END, ROLLBACK without TO, ABORT; SAVE TRAN is
// none of them), and MariaDB and MySQL commit what is open before they execute DDL and its kin.
// What a procedure or a dynamic statement does is not seen.
std::string_view refused_in_transaction(Engine engine, std::string_view sql);

}  // namespace defib::connection
