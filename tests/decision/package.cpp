// Runs an exported decision step: package inputs outputs slots features logits heads batch...
// Reads states, logits and noise of each batch one behind the other, and writes actions and log-probabilities.

#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <fstream>
#include <string>

int main(int count, char** words) {
  torch::inductor::AOTIModelPackageLoader decide(words[1]);
  std::ifstream from(words[2], std::ios::binary);
  std::ofstream to(words[3], std::ios::binary);
  const long slots = std::stol(words[4]), features = std::stol(words[5]);
  const long logits = std::stol(words[6]), heads = std::stol(words[7]);
  for (int at = 8; at < count; ++at) {
    const long batch = std::stol(words[at]);
    std::vector<at::Tensor> given = {
        at::empty({batch, slots, features}, at::kInt),
        at::empty({batch, logits}, at::kFloat),
        at::empty({batch, heads}, at::kFloat)};
    for (auto& tensor : given) from.read(static_cast<char*>(tensor.data_ptr()), tensor.nbytes());
    for (const auto& made : decide.run(given)) {
      const auto rows = made.contiguous();
      to.write(static_cast<const char*>(rows.data_ptr()), rows.nbytes());
    }
  }
  return from && to.flush() ? 0 : 1;
}
