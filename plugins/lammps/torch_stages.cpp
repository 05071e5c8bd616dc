#include "torch_stages.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>
#include <vector>

namespace mindscaip {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Where the fields of the model's Graph stand (mindscaip/graph/diffknn.py).
enum GraphField { CENTER, NEIGHBOR, DISTANCE, DIRECTION, LOG_ENVELOPE, NUM_FIELDS };

const char *const METHODS[] = {"window_ranks", "weigh_edges",  "arrange",     "embed",
                               "source_stage", "target_stage", "readout"};

// Rows of edges from the ranks of their centres to the ranks of their neighbours, or back; the derivative is the transfer
// the other way.
//
// The ticket orders the transfers: each takes the ticket of the one before it, so that every rank makes the same transfers
// in the same order, backward too, whatever its share of the graph (none at all included).
struct Transfer : torch::autograd::Function<Transfer> {
  static variable_list forward(AutogradContext *context, const Tensor &rows, const Tensor &ticket, int64_t num_rows,
                               Exchange *exchange, Exchange::Plan plan, bool outward)
  {
    context->saved_data["exchange"] = reinterpret_cast<int64_t>(exchange);
    context->saved_data["plan"] = static_cast<int64_t>(plan);
    context->saved_data["outward"] = outward;
    context->saved_data["num_rows"] = rows.size(0);
    return {move(rows, num_rows, *exchange, plan, outward), ticket.clone()};
  }

  static variable_list backward(AutogradContext *context, variable_list gradients)
  {
    auto *exchange = reinterpret_cast<Exchange *>(context->saved_data["exchange"].toInt());
    const auto plan = static_cast<Exchange::Plan>(context->saved_data["plan"].toInt());
    const bool outward = context->saved_data["outward"].toBool();
    const Tensor none;
    return {move(gradients[0], context->saved_data["num_rows"].toInt(), *exchange, plan, !outward), gradients[1], none,
            none, none, none};
  }

 private:
  static Tensor move(const Tensor &rows, int64_t num_rows, Exchange &exchange, Exchange::Plan plan, bool outward)
  {
    const Tensor given = rows.contiguous();
    const Tensor moved = torch::empty({num_rows, given.size(1)}, given.options());
    const auto row_bytes = static_cast<size_t>(given.size(1)) * given.element_size();
    // A queue of the GPU may still be writing what MPI is about to read.
    if (given.is_cuda()) c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).synchronizeDevice(given.device().index());
    if (outward)
      exchange.to_neighbors(plan, given.data_ptr(), moved.data_ptr(), row_bytes);
    else
      exchange.to_centers(plan, given.data_ptr(), moved.data_ptr(), row_bytes);
    return moved;
  }
};

// The edges of one plan, and the ticket of the last transfer.
class Channel {
 public:
  Channel(Exchange &exchange, Tensor &ticket, Exchange::Plan plan) : exchange_(exchange), ticket_(ticket), plan_(plan) {}

  // `neighbor` of the edges of this rank; sorts them into those whose neighbour is here and those that leave.
  void open(const Tensor &neighbor, const Tensor &remote_rank, const Tensor &remote_slot, int64_t num_atoms)
  {
    const auto device = neighbor.device();
    const Tensor here = neighbor.to(torch::kCPU);
    const Tensor stays = torch::nonzero(here < num_atoms).squeeze(1);
    Tensor leaves = torch::nonzero(here >= num_atoms).squeeze(1);
    leaves = leaves.index_select(0, torch::argsort(remote_rank.index_select(0, here.index_select(0, leaves) - num_atoms),
                                                   /*stable=*/true, /*dim=*/0, /*descending=*/false));
    const Tensor remote = here.index_select(0, leaves) - num_atoms;
    const Tensor ranks = remote_rank.index_select(0, remote).contiguous();
    const Tensor slots = remote_slot.index_select(0, remote).contiguous();
    num_stay = stays.size(0);
    num_leave = leaves.size(0);
    num_arrive = exchange_.open(plan_, num_leave, ranks.data_ptr<int64_t>(), slots.data_ptr<int64_t>());
    const Tensor arriving =
        torch::from_blob(const_cast<int64_t *>(exchange_.arriving_slots(plan_)), {num_arrive}, torch::kInt64);
    order = torch::cat({stays, leaves}).to(device);
    window = torch::cat({here.index_select(0, stays), arriving}).to(device);
  }

  // Rows of edges, sorted as `order`: those that leave are replaced by those that arrive, or the other way round.
  Tensor to_neighbors(const Tensor &rows, int64_t first = 0) { return replace(rows, first, num_arrive, true); }
  Tensor to_centers(const Tensor &rows, int64_t first = 0) { return replace(rows, first, num_leave, false); }

  Tensor order;     // the edges of this rank: staying ones first, then by the rank to which they go
  Tensor window;    // slots of the neighbours of the edges that stay or arrive
  int64_t num_stay = 0, num_leave = 0, num_arrive = 0;

 private:
  Tensor replace(const Tensor &rows, int64_t first, int64_t num_rows, bool outward)
  {
    const int64_t kept = first + num_stay;
    const auto device = rows.device();
    Tensor moving = rows.slice(0, kept);
    if (!exchange_.reads_device_memory()) moving = moving.to(torch::kCPU);
    const auto result = Transfer::apply(moving, ticket_, num_rows, &exchange_, plan_, outward);
    ticket_ = result[1];
    return torch::cat({rows.slice(0, 0, kept), result[0].to(device)});
  }

  Exchange &exchange_;
  Tensor &ticket_;
  Exchange::Plan plan_;
};

Tensor ranks_in_target_windows(torch::jit::Module &module, Channel &channel, const Tensor &distance, int64_t num_atoms)
{
  const Tensor moved = channel.to_neighbors(distance.index_select(0, channel.order).unsqueeze(1));
  const Tensor ranks = module.get_method("window_ranks")({num_atoms, channel.window, moved.squeeze(1)}).toTensor();
  const Tensor back = channel.to_centers(ranks.unsqueeze(1)).squeeze(1);
  return torch::zeros_like(distance).index_copy(0, channel.order, back);
}

}    // namespace

GraphTensors::GraphTensors(const GraphView &graph, torch::Device device)
{
  // No copies on the CPU: the model does not write to its inputs.
  const int64_t n = graph.num_atoms + graph.num_remote, e = graph.num_edges;
  numbers = torch::from_blob(const_cast<int64_t *>(graph.numbers), {n}, torch::kInt64).to(device);
  index = torch::from_blob(const_cast<int64_t *>(graph.edge_index), {2, e}, {graph.capacity, 1}, torch::kInt64).to(device);
  vectors = torch::from_blob(const_cast<double *>(graph.edge_vectors), {e, 3}, torch::kFloat64).to(device);
}

bool has_stages(const torch::jit::Module &module)
{
  for (const char *name : METHODS)
    if (!module.find_method(name)) return false;
  return true;
}

// Each rank holds the source windows of its atoms, and for the second half of a layer their target windows: edges whose
// centre is elsewhere arrive, and go home afterwards. All edges of an atom's window are then in one place, so that the
// numbers are those of one rank.
Results evaluate_stages(torch::jit::Module &module, const GraphView &graph, const Stages &stages, Exchange &exchange,
                        torch::Device device)
{
  const GraphTensors tensors(graph, device);
  const int64_t n = graph.num_atoms, remote = graph.num_remote;
  const Tensor numbers = tensors.numbers.slice(0, 0, n);
  const Tensor center = tensors.index[0], neighbor = tensors.index[1];
  const Tensor vectors = tensors.vectors.detach().requires_grad_(stages.conservative);
  const Tensor remote_rank = torch::from_blob(const_cast<int64_t *>(graph.remote_rank), {remote}, torch::kInt64);
  const Tensor remote_slot = torch::from_blob(const_cast<int64_t *>(graph.remote_slot), {remote}, torch::kInt64);
  const Tensor first_ticket = torch::zeros({1}, torch::kFloat64).requires_grad_(stages.conservative);
  Tensor ticket = first_ticket;

  const Tensor distance = torch::linalg_vector_norm(vectors, 2, {1});
  const Tensor ranks = module.get_method("window_ranks")({n, center, distance}).toTensor();
  Tensor target_ranks = ranks;
  if (stages.mutual) {
    Channel listed(exchange, ticket, Exchange::LISTED);
    listed.open(neighbor, remote_rank, remote_slot, n);
    target_ranks = ranks_in_target_windows(module, listed, distance, n);
  }

  const auto weighed = module.get_method("weigh_edges")({center, neighbor, vectors, distance, ranks, target_ranks}).toTuple();
  Channel kept(exchange, ticket, Exchange::KEPT);
  kept.open(weighed->elements()[NEIGHBOR].toTensor(), remote_rank, remote_slot, n);
  std::vector<c10::IValue> fields;
  for (int field = 0; field < NUM_FIELDS; ++field)
    fields.emplace_back(weighed->elements()[static_cast<size_t>(field)].toTensor().index_select(0, kept.order));
  const Tensor log_envelope = fields[LOG_ENVELOPE].toTensor();
  const Tensor centers = fields[CENTER].toTensor();
  const auto edges = c10::ivalue::Tuple::createNamed(std::move(fields), weighed->type());

  auto arrange = module.get_method("arrange");
  const auto source = arrange({n, centers, log_envelope});
  const auto target = arrange({n, kept.window, kept.to_neighbors(log_envelope.unsqueeze(1)).squeeze(1)});

  // Atoms of other ranks get tokens too, for the sake of one embedding; nobody reads them.
  Tensor tokens = module.get_method("embed")({tensors.numbers, edges}).toTensor();
  tokens = torch::cat({tokens.slice(0, 0, n), tokens.slice(0, n + remote)});
  auto source_stage = module.get_method("source_stage");
  auto target_stage = module.get_method("target_stage");
  for (int64_t layer = 0; layer < stages.num_layers; ++layer) {
    tokens = source_stage({layer, tokens, source}).toTensor();
    tokens = target_stage({layer, kept.to_neighbors(tokens, n), target}).toTensor();
    if (layer + 1 < stages.num_layers) tokens = kept.to_centers(tokens, n);
  }
  const auto read = module.get_method("readout")({numbers, tokens.slice(0, 0, n)}).toTuple();
  const Tensor energies = read->elements()[0].toTensor();
  const Tensor forces = read->elements()[1].toTensor();

  Tensor gradients = torch::zeros_like(tensors.vectors);
  if (stages.conservative) {
    const auto found = torch::autograd::grad({energies.sum().cpu() + ticket.sum()}, {vectors, first_ticket}, {},
                                             /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
    if (found[0].defined()) gradients = found[0];
  }
  return {energies.detach(), gradients, forces.detach()};
}

}    // namespace mindscaip
