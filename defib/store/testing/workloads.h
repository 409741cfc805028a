// The recorded workloads of the crash campaigns, each for one side of the store.

#pragma once

#include <optional>
#include <thread>
#include <vector>

#include "defib/store/executor.h"
#include "defib/store/testing/recording.h"

namespace defib::store::testing_util {
namespace workload {

inline void durable_commits(Recording& r) {
  r.open();
  for (int i = 0; i < 12; ++i) r.must_commit(Durability::kPower);
  r.close();
  r.open();
  for (int i = 0; i < 3; ++i) r.must_commit(Durability::kPower);
}

inline void process_commits(Recording& r) {
  r.open();
  for (int i = 0; i < 20; ++i) {
    r.must_commit(Durability::kProcess, 400);
    if (i % 7 == 6) r.executor().step();  // The background sync.
    if (i == 12) r.all_durable(r.store().sync());
  }
  r.must_commit(Durability::kPower);
  for (int i = 0; i < 5; ++i) r.must_commit(Durability::kProcess, 3000);
}

inline void checkpoints(Recording& r) {
  r.open();
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 4; ++i) {
      r.must_commit(i % 2 == 0 ? Durability::kProcess : Durability::kPower, 200);
    }
    r.all_durable(r.store().checkpoint());
  }
  r.must_commit(Durability::kPower);
  r.close();
}

inline void rotations(Recording& r) {
  r.open();
  for (int i = 0; i < 14; ++i) {
    r.must_commit(i % 3 == 0 ? Durability::kPower : Durability::kProcess, 6000);
  }
  r.must_commit(Durability::kPower, 40000);  // Larger than a segment.
  r.must_commit(Durability::kPower, 100);
  r.all_durable(r.store().checkpoint());
  r.must_commit(Durability::kProcess, 100);
}

inline void automatic_checkpoints(Recording& r) {
  Options options = r.options();
  options.checkpoint_after = 8 << 10;
  r.open(options);
  for (int i = 0; i < 30; ++i) {
    r.must_commit(Durability::kProcess, 1500);
    if (i % 4 == 3) r.executor().run_all();
  }
}

// Checkpoints whose pauses are used for commits, started at random.
inline void background_checkpoints(Recording& r) {
  Options options = r.options();
  options.checkpoint_after = 6 << 10;
  r.open(options);
  for (int i = 0; i < 40; ++i) {
    r.must_commit(i % 5 == 0 ? Durability::kPower : Durability::kProcess, 900);
    if (r.random().below(3) != 0) continue;
    r.clock().on_sleep = [&r] { r.must_commit(Durability::kProcess, 300); };
    r.executor().step();
    r.clock().on_sleep = nullptr;
  }
  r.all_durable(r.store().sync());
}

// A checkpoint on a thread of its own beside the writer. What the two do first is not the seed's
// to say, but the operations are recorded in the order in which they came.
inline void checkpoint_beside_the_writer(Recording& r) {
  OneThread thread;
  struct Drop {
    Recording& r;
    ~Drop() { r.drop(); }
  } const before_the_thread_ends{r};
  Options options = r.options();
  options.executor = &thread;
  options.checkpoint_after = 5 << 10;
  r.open(options);
  for (int i = 0; i < 60; ++i) {
    r.must_commit(i % 8 == 0 ? Durability::kPower : Durability::kProcess, 500);
  }
}

// More than eight checkpoints, so that their files are merged.
inline void merges(Recording& r) {
  r.open();
  for (int round = 0; round < 13; ++round) {
    r.must_commit(Durability::kProcess, {.value_size = 60, .changes = 5, .keys = 30});
    r.all_durable(r.store().checkpoint());
    if (r.random().below(3) == 0) r.executor().run_all();
  }
  r.must_commit(Durability::kProcess);
  r.executor().run_all();
  r.must_commit(Durability::kPower);
}

// Values larger than any page of any file.
inline void big_values(Recording& r) {
  r.open();
  for (int i = 0; i < 5; ++i) {
    r.must_commit(i % 2 == 0 ? Durability::kPower : Durability::kProcess,
                  {.value_size = 90000, .changes = 2, .keys = 4});
    if (i == 2) r.all_durable(r.store().checkpoint());
  }
  r.all_durable(r.store().checkpoint());
  r.must_commit(Durability::kPower, 20000);
}

inline void many_tables(Recording& r) {
  r.open();
  const Recording::Shape shape{.changes = 20, .tables = 60, .keys = 3};
  for (int i = 0; i < 12; ++i) {
    r.must_commit(i % 3 == 0 ? Durability::kPower : Durability::kProcess, shape);
    if (i % 5 == 4) r.all_durable(r.store().checkpoint());
  }
  r.close();
  r.open();
  r.must_commit(Durability::kPower, shape);
}

// More is erased than is left: tables end, and erased records outnumber the living.
inline void erasures(Recording& r) {
  r.open();
  for (int round = 0; round < 4; ++round) {
    r.must_commit(Durability::kProcess,
                  {.changes = 30, .tables = 4, .keys = 20, .erased_percent = 0});
    if (round % 2 == 0) r.all_durable(r.store().checkpoint());
    r.must_commit(Durability::kPower,
                  {.changes = 30, .tables = 4, .keys = 20, .erased_percent = 90});
    r.must(r.erase_all(Durability::kProcess));
    if (round % 2 == 1) r.all_durable(r.store().checkpoint());
    r.executor().run_all();
  }
  r.must_commit(Durability::kPower);
}

// Transactions of many records that no segment holds.
inline void large_transactions(Recording& r) {
  r.open();
  const Recording::Shape shape{
      .value_size = 1200, .changes = 90, .tables = 3, .keys = 60, .erased_percent = 10};
  for (int i = 0; i < 5; ++i) {
    r.must_commit(i % 2 == 0 ? Durability::kPower : Durability::kProcess, shape);
    r.must_commit(Durability::kProcess);
    if (i == 3) r.all_durable(r.store().checkpoint());
  }
}

inline void killed_again_and_again(Recording& r) {
  for (int life = 0; life < 4; ++life) {
    r.open();
    for (int i = 0; i < 3; ++i) {
      r.must_commit(i == 1 ? Durability::kPower : Durability::kProcess);
    }
    r.drop();
  }
  r.open();
  r.close();
}

// Crash, append, crash: what one recovery leaves must carry the next.
inline void generations(Recording& r) {
  r.open();
  for (int generation = 0; generation < 12; ++generation) {
    for (std::uint64_t i = r.random().below(5); i > 0; --i) {
      r.must_commit(r.random().below(2) == 0 ? Durability::kPower : Durability::kProcess,
                    r.random().below(6) == 0 ? 9000 : 60);
    }
    if (r.random().below(4) == 0) r.all_durable(r.store().checkpoint());
    r.crash(r.random().below(2) == 0);
  }
  for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower);
}

inline void full_disk(Recording& r) {
  r.open();
  for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower, 500);
  for (int round = 0; round < 2; ++round) {
    r.disk().set_capacity(0);
    bool refused = false;
    for (int i = 0; i < 40 && !refused; ++i) {
      const auto committed = r.commit(Durability::kPower, 2000);
      refused = !committed;
      if (refused && committed.error().code() != Code::kStoreFull) r.must(committed);
    }
    require(refused, "a full disk takes every commit");
    require(r.shows(r.last()), "a full disk changes what is read");
    r.disk().set_capacity(~0ULL);
    for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower, 2000);
  }
  r.close();
}

// A checkpoint that finds no space gives up, and the store goes on.
inline void full_disk_at_a_checkpoint(Recording& r) {
  r.open();
  for (int i = 0; i < 5; ++i) r.must_commit(Durability::kPower, 1500);
  std::uint64_t used = 0;
  for (const std::string& path : r.disk().all_files()) used += r.disk().content(path).size();
  for (const std::uint64_t spare : {0, 1000, 5000}) {
    r.disk().set_capacity(used + spare);
    (void)r.store().checkpoint();
    r.disk().set_capacity(~0ULL);
    r.must_commit(Durability::kPower, 100);
  }
  r.all_durable(r.store().checkpoint());
  r.must_commit(Durability::kPower, 100);
  r.close();
}

// Indexes that follow their tables through log, runs and base.
inline void secondary_indexes(Recording& r) {
  Options options = r.options();
  options.indexes = index_definitions(2);
  r.open(options);
  for (int i = 0; i < 14; ++i) {
    const Durability durability = i % 3 == 0 ? Durability::kPower : Durability::kProcess;
    if (i % 2 == 0) {
      r.must(r.commit_tickets(durability));
    } else {
      r.must_commit(durability);
    }
    if (i % 5 == 4) r.all_durable(r.store().checkpoint());
  }
  r.all_durable(r.store().compact());
  r.must(r.commit_tickets(Durability::kPower));
  r.close();
  r.open(options);
  r.must(r.commit_tickets(Durability::kProcess));
  r.must_commit(Durability::kPower);
}

// Indexes come to records that are there, get another version, are dropped by a program that does
// not know them, and are built once more.
inline void indexes_built_anew(Recording& r) {
  const auto work = [&r](int commits) {
    for (int i = 0; i < commits; ++i) {
      r.must(r.commit_tickets(i % 2 == 0 ? Durability::kPower : Durability::kProcess));
      r.must_commit(Durability::kProcess);
    }
  };
  Options options = r.options();
  r.open();
  work(2);
  for (const std::uint32_t version : {1U, 2U}) {
    r.drop();
    options.indexes = index_definitions(version);
    r.open(options);
    work(2);
    r.all_durable(r.store().checkpoint());
  }
  r.close();
  r.open();
  r.must_commit(Durability::kProcess);  // Drops one of the two.
  r.drop();
  r.open(options);
  work(1);
  r.close();
  r.open();
  r.must(r.commit_tickets(Durability::kPower));  // Both, mostly.
  r.drop();
  r.open(options);
  r.all_durable(r.store().compact());
  work(1);
}

// Everything becomes one base, again and again.
inline void compactions(Recording& r) {
  const auto compact = [&r] {
    r.all_durable(r.store().compact());
    const auto names = r.disk().list(kDir + "/data");
    require(names->size() == 1, "compaction leaves another file than one base");
    require(r.shows(r.last()), "compaction changes what is read");
  };
  r.open();
  const Recording::Shape shape{.changes = 8, .tables = 3, .keys = 15, .erased_percent = 45};
  for (int round = 0; round < 5; ++round) {
    r.must_commit(Durability::kProcess, shape);
    r.all_durable(r.store().checkpoint());
    r.must_commit(Durability::kPower, shape);
    if (round % 2 == 1) r.all_durable(r.store().checkpoint());
    r.must_commit(Durability::kProcess, shape);
    if (round == 3) r.must(r.erase_all(Durability::kProcess));
    compact();
  }
  r.close();
  r.open();
  compact();  // Nothing to do.
  r.must_commit(Durability::kProcess, shape);
  r.all_durable(r.store().checkpoint());
  r.drop();
  r.open();
  compact();  // Without anything new since the opening.
  r.must_commit(Durability::kPower, shape);
}

inline void compaction_beside_the_writer(Recording& r) {
  r.open();
  for (int round = 0; round < 3; ++round) {
    r.must_commit(Durability::kProcess, {.value_size = 60, .changes = 12, .keys = 30});
    r.all_durable(r.store().checkpoint());
  }
  std::optional<Result<>> compacted;
  {
    const std::jthread other([&] { compacted = r.store().compact(); });
    for (int i = 0; i < 12; ++i) {
      r.must_commit(i % 4 == 0 ? Durability::kPower : Durability::kProcess, 500);
    }
  }
  require(*compacted, "compaction");
}

// A base that is heavy, so that runs are merged with each other only: what they erase must stay
// erased in what they become.
inline void merges_of_runs_alone(Recording& r) {
  Options options = r.options();
  options.page_size = 4096;
  r.open(options);
  r.must_commit(Durability::kProcess,
                {.value_size = 30000, .changes = 90, .tables = 1, .keys = 40, .erased_percent = 0});
  r.all_durable(r.store().checkpoint());
  for (int round = 0; round < 10; ++round) {
    r.must_commit(Durability::kProcess,
                  {.changes = 3, .tables = 1, .keys = 40, .erased_percent = 60});
    r.all_durable(r.store().checkpoint());
    r.executor().run_all();
  }
  r.must_commit(Durability::kPower);
  r.all_durable(r.store().compact());
}

inline constexpr std::uint64_t kRetention = 40 << 10;  // not a multiple of a segment

// Log that is kept behind checkpoints, over closing, killing and compacting.
inline void retained_log(Recording& r) {
  Options options = r.options();
  options.log_retention = kRetention;
  r.open(options);
  for (int round = 0; round < 9; ++round) {
    for (int i = 0; i < 5; ++i) {
      r.must_commit(i % 2 == 0 ? Durability::kProcess : Durability::kPower, 5000);
    }
    if (round % 4 == 3) {
      r.all_durable(r.store().compact());
    } else {
      r.all_durable(r.store().checkpoint());
    }
    r.note_history(kRetention);
    r.must_commit(Durability::kProcess, 100);
    if (round % 3 == 1) r.close();
    if (round % 3 == 2) r.drop();
    if (round % 3 != 0) {
      r.open(options);
      r.note_history(kRetention);
    }
  }
  r.must_commit(Durability::kPower, 5000);
}

inline void few_commits(Recording& r) {
  r.open();
  r.must_commit(Durability::kPower);
  r.must_commit(Durability::kProcess);
  r.all_durable(r.store().checkpoint());
  r.must_commit(Durability::kPower);
  r.drop();
}

}  // namespace workload

inline std::vector<Workload> workloads() {
  return {{"few commits", workload::few_commits, true},
          {"durable commits", workload::durable_commits},
          {"process commits", workload::process_commits},
          {"checkpoints", workload::checkpoints},
          {"rotations", workload::rotations},
          {"automatic checkpoints", workload::automatic_checkpoints},
          {"background checkpoints", workload::background_checkpoints},
          {"a checkpoint beside the writer", workload::checkpoint_beside_the_writer},
          {"merges", workload::merges},
          {"big values", workload::big_values},
          {"many tables", workload::many_tables},
          {"erasures", workload::erasures},
          {"large transactions", workload::large_transactions},
          {"killed again and again", workload::killed_again_and_again},
          {"generations", workload::generations},
          {"full disk", workload::full_disk},
          {"full disk at a checkpoint", workload::full_disk_at_a_checkpoint},
          {.name = "secondary indexes", .run = workload::secondary_indexes, .has_indexes = true},
          {.name = "indexes built anew", .run = workload::indexes_built_anew, .has_indexes = true},
          {"compactions", workload::compactions},
          {"compaction beside the writer", workload::compaction_beside_the_writer},
          {"merges of runs alone", workload::merges_of_runs_alone},
          {.name = "retained log",
           .run = workload::retained_log,
           .log_retention = workload::kRetention}};
}

}  // namespace defib::store::testing_util
