#include "exchange.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <numeric>

namespace mindscaip {

namespace {

constexpr int TAG = 0;
// MPI counts in int; longer messages go in pieces.
constexpr size_t LARGEST_MESSAGE = size_t(1) << 30;

}    // namespace

MpiExchange::MpiExchange(MPI_Comm world, bool device_memory) : world_(world), device_memory_(device_memory)
{
  MPI_Comm_size(world_, &num_ranks_);
  MPI_Comm_rank(world_, &me_);
}

int64_t MpiExchange::open(Plan plan, int64_t count, const int64_t *ranks, const int64_t *slots)
{
  Route &route = routes_[plan];
  const double start = MPI_Wtime();
  route.leaving.assign(static_cast<size_t>(num_ranks_), 0);
  route.arriving.assign(static_cast<size_t>(num_ranks_), 0);
  for (int64_t e = 0; e < count; ++e) ++route.leaving[static_cast<size_t>(ranks[e])];
  MPI_Alltoall(route.leaving.data(), sizeof(int64_t), MPI_BYTE, route.arriving.data(), sizeof(int64_t), MPI_BYTE, world_);
  const int64_t arriving = std::accumulate(route.arriving.begin(), route.arriving.end(), int64_t(0));
  route.slots.resize(static_cast<size_t>(arriving));
  seconds_ += MPI_Wtime() - start;
  to_neighbors(plan, slots, route.slots.data(), sizeof(int64_t));
  return arriving;
}

void MpiExchange::to_neighbors(Plan plan, const void *leaving, void *arriving, size_t row_bytes)
{
  const Route &route = routes_[plan];
  move(route.leaving, static_cast<const char *>(leaving), route.arriving, static_cast<char *>(arriving), row_bytes);
}

void MpiExchange::to_centers(Plan plan, const void *arriving, void *leaving, size_t row_bytes)
{
  const Route &route = routes_[plan];
  move(route.arriving, static_cast<const char *>(arriving), route.leaving, static_cast<char *>(leaving), row_bytes);
}

// Every receive stands before the first send, so that no order of sends can lock two ranks. Only ranks that share edges
// meet: nothing is sent where there is nothing to send, and both ends know that from open().
void MpiExchange::move(const std::vector<int64_t> &send, const char *out, const std::vector<int64_t> &receive, char *in,
                       size_t row_bytes)
{
  const double start = MPI_Wtime();
  requests_.clear();
  for (int rank = 0; rank < num_ranks_; ++rank)
    for (size_t left = static_cast<size_t>(receive[static_cast<size_t>(rank)]) * row_bytes; left > 0;) {
      const size_t piece = std::min(left, LARGEST_MESSAGE);
      MPI_Request request;
      MPI_Irecv(in, static_cast<int>(piece), MPI_BYTE, rank, TAG, world_, &request);
      requests_.push_back(request);
      in += piece;
      left -= piece;
    }
  for (int rank = 0; rank < num_ranks_; ++rank)
    for (size_t left = static_cast<size_t>(send[static_cast<size_t>(rank)]) * row_bytes; left > 0;) {
      const size_t piece = std::min(left, LARGEST_MESSAGE);
      MPI_Send(const_cast<char *>(out), static_cast<int>(piece), MPI_BYTE, rank, TAG, world_);
      out += piece;
      left -= piece;
    }
  if (!requests_.empty()) MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), MPI_STATUSES_IGNORE);
  seconds_ += MPI_Wtime() - start;
}

double MpiExchange::bytes() const
{
  double total = 0.0;
  for (const Route &route : routes_)
    total += static_cast<double>((route.leaving.capacity() + route.arriving.capacity() + route.slots.capacity()) *
                                 sizeof(int64_t));
  return total;
}

std::string first_message(MPI_Comm world, const std::string &mine)
{
  int num_ranks, me;
  MPI_Comm_size(world, &num_ranks);
  MPI_Comm_rank(world, &me);
  if (num_ranks == 1) return mine;
  const int speaks = mine.empty() ? num_ranks : me;
  int speaker = num_ranks;
  MPI_Allreduce(&speaks, &speaker, 1, MPI_INT, MPI_MIN, world);
  if (speaker == num_ranks) return "";
  int length = static_cast<int>(mine.size());
  MPI_Bcast(&length, 1, MPI_INT, speaker, world);
  std::string text(mine);
  text.resize(static_cast<size_t>(length));
  MPI_Bcast(&text[0], length, MPI_CHAR, speaker, world);
  return text;
}

// An extension of Open MPI and MPICH that other MPIs lack, so it is asked for by name.
CudaAware mpi_is_cuda_aware()
{
  const auto query = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "MPIX_Query_cuda_support"));
  if (query == nullptr) return CudaAware::UNKNOWN;
  return query() != 0 ? CudaAware::YES : CudaAware::NO;
}

void ranks_on_node(MPI_Comm world, int &number, int &count)
{
  constexpr int LENGTH = 256;    // at least MPI_MAX_PROCESSOR_NAME of every MPI
  int num_ranks, me, length = 0;
  MPI_Comm_size(world, &num_ranks);
  MPI_Comm_rank(world, &me);
  number = 0;
  count = 1;
  if (num_ranks == 1) return;
  std::vector<char> name(std::max(LENGTH, static_cast<int>(MPI_MAX_PROCESSOR_NAME)) + 1, '\0');
  MPI_Get_processor_name(name.data(), &length);
  std::vector<char> names(static_cast<size_t>(LENGTH) * static_cast<size_t>(num_ranks), '\0');
  MPI_Allgather(name.data(), LENGTH, MPI_CHAR, names.data(), LENGTH, MPI_CHAR, world);
  count = 0;
  for (int rank = 0; rank < num_ranks; ++rank)
    if (std::memcmp(&names[static_cast<size_t>(rank) * LENGTH], name.data(), LENGTH) == 0) {
      if (rank < me) ++number;
      ++count;
    }
}

}    // namespace mindscaip
