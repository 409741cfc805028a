// The smallest service: writes the time of its main() into the file named by its argument, and
// waits. With a port it listens there, and sends a byte to whoever connects.

#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int serve(int port) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in own = {0};
  own.sin_family = AF_INET;
  own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  own.sin_port = htons((unsigned short)port);
  if (bind(listener, (struct sockaddr*)&own, sizeof own) != 0 || listen(listener, 64) != 0)
    return 1;
  while (1) {
    const int client = accept(listener, NULL, NULL);
    if (client < 0) continue;
    if (write(client, "x", 1) != 1) continue;
    close(client);
  }
}

int main(int argc, char** argv) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const long long ns = now.tv_sec * 1000000000LL + now.tv_nsec;
  if (argc > 1) {
    const int fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, &ns, sizeof ns) != sizeof ns) return 1;
    close(fd);
  }
  if (argc > 2) return serve(atoi(argv[2]));
  while (1) pause();
}
