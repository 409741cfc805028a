// Victims in Node.js: `node victim.js MODE` ends in one way, each in a function of its own. The
// table in catalogue.py says what each is to be called.
"use strict";

const modes = {
  type_error() {
    setTimeout(() => {
      throw new TypeError("quantity is not a number");
    }, 5);
  },
  own_error() {
    class RiskLimit extends Error {
      constructor(text) {
        super(text);
        this.name = "RiskLimit";
      }
    }
    throw new RiskLimit("exposure 12 > 10");
  },
  thrown_text() {
    throw "just a text";
  },
  rejection() {
    (async () => {
      throw new Error("the venue went away");
    })();
  },
  rejection_without_error() {
    Promise.reject("closed");
  },
  recursion() {
    const visit = (n) => visit(n + 1) + 1;
    visit(0);
  },
  module_missing() {
    require("./no_such_module_of_ours");
  },
  unhandled_event() {
    require("net").createConnection({ host: "127.0.0.1", port: 1 });
  },
  heap() {
    const blocks = [];
    while (true) blocks.push(new Array(1000).fill(blocks.length));
  },
  process_abort() {
    process.abort();
  },
  exit_three() {
    console.error("error: the configuration has no venue");
    process.exit(3);
  },
  caught_and_exit() {
    process.on("uncaughtException", (error) => {
      console.error("caught:", error);
      process.exit(6);
    });
    throw new Error("handled above");
  },
  raise_segv() {
    process.kill(process.pid, "SIGSEGV");
    setTimeout(() => {}, 10000);
  },
  waits() {
    console.log("ready");
    setInterval(() => {}, 100000);
  },
  busy_loop() {
    console.log("ready");
    for (let i = 0; ; ++i) if (i < 0) break;
  },
};
modes[process.argv[2]]();
