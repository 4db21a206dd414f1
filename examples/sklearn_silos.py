"""Scikit-learn's interface over three clinics: one fit, and the coefficients of the pooled rows."""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fedloom as fl


def main() -> None:
    X, y, X_test, y_test = rows()
    clinic = np.digitize(X[:, 0], [12.0, 15.0])  # small, medium and large tumours: the clinics differ
    silos = {name: (X[clinic == place], y[clinic == place]) for place, name in enumerate(("east", "north", "south"))}

    federated = {
        "logistic regression": fl.FederatedLogisticRegression(),
        "the same, by FedAvg": fl.FederatedLogisticRegression(algorithm="fedavg", rounds=40, tol=0.0),
        "naive Bayes": fl.FederatedGaussianNB(),
        "network": fl.FederatedMLPClassifier((16,), rounds=20),
    }
    print(f"{'':22}{'accuracy':>8}{'rounds':>8}")
    for name, model in federated.items():
        model.fit(silos)
        print(f"{name:22}{model.score(X_test, y_test):8.3f}{getattr(model, 'n_iter_', 2):8}")

    pooled = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8)).fit(X, y)
    print(f"{'pooled rows':22}{pooled.score(X_test, y_test):8.3f}")
    own = federated["logistic regression"].coef_ * pooled[0].scale_
    print(f"largest difference of a coefficient from the pooled one: {np.abs(own - pooled[1].coef_).max():.1e}")


def rows() -> list[np.ndarray]:
    X, y = load_breast_cancer(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)
    return [X_train, y_train, X_test, y_test]


if __name__ == "__main__":
    main()
