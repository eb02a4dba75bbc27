// Allocation heavy, as C++ programs are: maps of strings that come and go. An operation is an order that is written, found again,
// and an old one that is thrown away.
#include "latencies.h"

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

static std::map<std::string, std::vector<std::string>> orders;
static std::unordered_map<std::string, std::string> customers;

static void operation() {
    const std::string customer = "customer/" + std::to_string(next_random() % 2000) + "/of this shop";
    const std::string order = customer + "/order/" + std::to_string(next_random() % 4);
    std::vector<std::string> lines;
    for (int line = 0; line < 8; line++) {
        lines.push_back("article " + std::to_string(next_random() % 100000) + std::string(next_random() % 64, '.'));
    }
    orders[order] = std::move(lines);
    customers[customer] = order;
    const std::string other = "customer/" + std::to_string(next_random() % 2000) + "/of this shop";
    const auto last = customers.find(other);
    if (last != customers.end()) {
        orders.erase(last->second);
        customers.erase(last);
    }
}

int main() { return serve(operation); }
