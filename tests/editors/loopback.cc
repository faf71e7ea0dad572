// Refuses connections and look-ups that leave this machine, and notes them in the file that LOOPBACK_GUARD_LOG names.
// Loaded with LD_PRELOAD into the clients that the tests drive: none of them may send anything elsewhere.

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

void note(const char *call, const char *target) {
  const char *path = getenv("LOOPBACK_GUARD_LOG");
  if (path == nullptr) return;
  char line[512];
  int length = snprintf(line, sizeof line, "%s %.400s\n", call, target);
  int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return;
  if (write(file, line, static_cast<size_t>(length)) < 0) abort();
  close(file);
}

// Whether the address is this machine's. Families without addresses of other machines are.
bool is_local(const sockaddr *address, char *text, socklen_t room) {
  if (address->sa_family == AF_INET) {
    const in_addr &v4 = reinterpret_cast<const sockaddr_in *>(address)->sin_addr;
    inet_ntop(AF_INET, &v4, text, room);
    return (ntohl(v4.s_addr) >> 24) == 127;
  }
  if (address->sa_family == AF_INET6) {
    const in6_addr &v6 = reinterpret_cast<const sockaddr_in6 *>(address)->sin6_addr;
    inet_ntop(AF_INET6, &v6, text, room);
    return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
  }
  return true;
}

}  // namespace

extern "C" int connect(int socket, const sockaddr *address, socklen_t length) {
  using Connect = int (*)(int, const sockaddr *, socklen_t);
  static const Connect real = reinterpret_cast<Connect>(dlsym(RTLD_NEXT, "connect"));
  char text[INET6_ADDRSTRLEN] = "";
  if (address != nullptr && !is_local(address, text, sizeof text)) {
    int kind = 0;
    socklen_t room = sizeof kind;
    getsockopt(socket, SOL_SOCKET, SO_TYPE, &kind, &room);
    // Connecting a datagram socket sends nothing: it is how programs ask for the route's source address.
    if (kind == SOCK_STREAM) note("connect", text);
    errno = ENETUNREACH;
    return -1;
  }
  return real(socket, address, length);
}

extern "C" int getaddrinfo(const char *node, const char *service, const addrinfo *hints, addrinfo **found) {
  using Look = int (*)(const char *, const char *, const addrinfo *, addrinfo **);
  static const Look real = reinterpret_cast<Look>(dlsym(RTLD_NEXT, "getaddrinfo"));
  if (node != nullptr && strcasecmp(node, "localhost") != 0) {
    in_addr v4;
    in6_addr v6;
    if (inet_pton(AF_INET, node, &v4) != 1 && inet_pton(AF_INET6, node, &v6) != 1) {
      note("look-up", node);
      return EAI_FAIL;
    }
  }
  return real(node, service, hints, found);
}
