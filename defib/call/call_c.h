/* Isolated clients in C, and for everything that can call C (libdefib-call.so: Python's ctypes, Go,
 * Rust): a native library runs in a process of its own, and its crash is an error here.
 *
 *   defib_call_error error;
 *   defib_call_client* prices = defib_call_create("libprices.so", NULL, &error);
 *   char* price;
 *   if (defib_call_invoke(prices, "price", "[\"ESM4\",30]", 0, &price, &error) == 0) {
 *     puts(price);
 *     defib_call_free(price);
 *   } else if (defib_call_faulted(prices)) {
 *     defib_call_close(prices);   (and create another one)
 *   }
 *
 * Arguments, results and records are JSON texts, in UTF-8; docs/formats/call.md tells the form of
 * each type. Functions that can fail return 0 for done and else the error's code (negative, `defib
 * explain CODE`), and fill *error where it is not NULL. Texts are cut to their arrays, and always
 * end with a zero byte. No function lets a C++ exception out.
 *
 * Threads: a client from any thread (its calls run one after the other; use a client for each
 * thread that shall not wait); a stream from one thread at a time. Nobody may use what is closed.
 * A process that was forked from one that uses this library must not use it itself.
 *
 * The program defib-worker is looked for as $DEFIB_WORKER, in ../bin and in the directory of this
 * library, beside the program, and in PATH; defib-capture, which makes backtraces, likewise. */

#ifndef DEFIB_CALL_CALL_C_H_
#define DEFIB_CALL_CALL_C_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct defib_call_client defib_call_client;
typedef struct defib_call_stream defib_call_stream;

/* What happened, and what to do next. */
typedef struct defib_call_error {
  int32_t code;      /* 0: none */
  char kind[32];     /* "NativeCrash" */
  char message[512]; /* with its causes, on one line */
  char action[256];  /* what to do next */
} defib_call_error;

/* The whole error that a function of this face gave last on this thread, as JSON: "code" "kind"
 * "class" "message" "suggested_action" "fields" (such as the method, its arguments, the signal) and
 * "cause". Returns the length without the zero byte; where that is `size` or more, the text was
 * cut, and a longer buffer is needed (NULL with 0 asks for the length). 0: there was none. */
size_t defib_call_last_error(char* to, size_t size);

/* Starts a worker and loads the plugin into it. `options`: NULL, or a JSON object
 * (client_json.h has its members): {"call_timeout_ms":1000,"memory_bytes":268435456}. NULL where it
 * fails. */
defib_call_client* defib_call_create(const char* plugin, const char* options,
                                     defib_call_error* error);
/* Ends the worker. Streams that are open stay valid until they are closed, and fail. */
void defib_call_close(defib_call_client* client);

/* {"plugin","version","methods":[{"name","signature","stream"}]} */
int defib_call_methods(const defib_call_client* client, char** json, defib_call_error* error);

/* `arguments`: a JSON array with an item for each; NULL: none. timeout_ms 0: the client's. *result
 * is the value, which is the caller's (defib_call_free); NULL where it fails. */
int defib_call_invoke(defib_call_client* client, const char* method, const char* arguments,
                      uint32_t timeout_ms, char** result, defib_call_error* error);

/* NULL where it fails. */
defib_call_stream* defib_call_stream_open(defib_call_client* client, const char* method,
                                          const char* arguments, defib_call_error* error);
/* The next record, which is the caller's; 0 with *record NULL: the end. Waits timeout_ms (0: 30 s)
 * at most, then Timeout (-6, and the next call goes on). Records that were published before a crash
 * come first, and then the crash. */
int defib_call_stream_next(defib_call_stream* stream, uint32_t timeout_ms, char** record,
                           defib_call_error* error);
/* Tells the stream's function that no more is wanted. */
void defib_call_stream_close(defib_call_stream* stream);

/* 1: the library crashed or was ended, and the client is of no more use. */
int defib_call_faulted(const defib_call_client* client);
/* What is known of the fault, with the backtrace, as JSON (client_json.h), which is the caller's.
 * Waits for it. 0 with *json NULL: there is no fault, or not enough is known in time. */
int defib_call_report(const defib_call_client* client, uint32_t timeout_ms, char** json,
                      defib_call_error* error);

void defib_call_free(char* text);

#ifdef __cplusplus
}
#endif

#endif /* DEFIB_CALL_CALL_C_H_ */
