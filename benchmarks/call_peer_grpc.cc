// The peer of ./bench call: an empty unary call by gRPC over a UNIX socket, between two processes.
//
// Method: the synchronous client and server, as generated code uses them, with messages of no
// bytes. Neither process is pinned: gRPC is then faster than on two processors of their own, since
// the kernel may have both sides on one. Prints the time of each call in ns, a line each.

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/client_unary_call.h>
#include <grpcpp/impl/rpc_service_method.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/method_handler.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

namespace {

constexpr char kMethod[] = "/bench.Empty/Call";

class EmptyService : public grpc::Service {
 public:
  EmptyService() {
    using Handler =
        grpc::internal::RpcMethodHandler<EmptyService, grpc::ByteBuffer, grpc::ByteBuffer>;
    const auto answer = [](EmptyService*, grpc::ServerContext*, const grpc::ByteBuffer*,
                           grpc::ByteBuffer* reply) {
      const grpc::Slice nothing;
      *reply = grpc::ByteBuffer(&nothing, 1);
      return grpc::Status::OK;
    };
    // Both are the library's then.
    AddMethod(new grpc::internal::RpcServiceMethod(kMethod, grpc::internal::RpcMethod::NORMAL_RPC,
                                                   new Handler(answer, this)));
  }
};

[[noreturn]] void serve(const std::string& address, int ready_fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  EmptyService service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  const char byte = 1;
  if (server == nullptr || write(ready_fd, &byte, 1) != 1) _exit(1);
  server->Wait();
  _exit(0);
}

long long now_ns() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

bool measure(const std::string& address, int count) {
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  const grpc::internal::RpcMethod method(kMethod, grpc::internal::RpcMethod::NORMAL_RPC, channel);
  const grpc::Slice nothing;
  const grpc::ByteBuffer request(&nothing, 1);
  std::vector<long long> times;
  for (int i = 0; i < count + count / 10 + 1; ++i) {
    const long long start = now_ns();
    grpc::ClientContext context;
    grpc::ByteBuffer reply;
    const grpc::Status status =
        grpc::internal::BlockingUnaryCall(channel.get(), method, &context, request, &reply);
    if (!status.ok()) {
      fprintf(stderr, "gRPC: %s\n", status.error_message().c_str());
      return false;
    }
    if (i > count / 10) times.push_back(now_ns() - start);
  }
  for (const long long time : times) printf("%lld\n", time);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc == 2 ? atoi(argv[1]) : 0;
  char directory[] = "/tmp/defib-grpc-XXXXXX";
  int ready[2];
  if (count <= 0 || mkdtemp(directory) == nullptr || pipe(ready) != 0) {
    fprintf(stderr, "usage: call_peer_grpc CALLS\n");
    return 2;
  }
  const std::string socket = std::string(directory) + "/socket";
  // Before the library has threads.
  const pid_t server = fork();
  if (server == 0) serve("unix:" + socket, ready[1]);
  close(ready[1]);
  char byte = 0;
  const bool measured =
      server > 0 && read(ready[0], &byte, 1) == 1 && measure("unix:" + socket, count);
  kill(server, SIGKILL);
  waitpid(server, nullptr, 0);
  unlink(socket.c_str());
  rmdir(directory);
  return measured ? 0 : 1;
}
